//! Windows.

use super::*;

pub(super) fn flow(all: &mut Cases) {
    let protocol = Connection(&[PROTOCOL_ERROR]);
    all.add("6.9 nothing", &[window(0, 0)], protocol);
    all.add(
        "6.9 nothing on a stream",
        &[post(1), window(1, 0)],
        Stream(1, &[PROTOCOL_ERROR]),
    );
    for length in [0, 3, 5] {
        let short = frame(WINDOW_UPDATE, 0, 0, &vec![0; length]);
        let then = Connection(&[FRAME_SIZE_ERROR]);
        all.add(format!("6.9 {length} bytes"), &[short], then);
    }
    let most = 0x7fff_ffff;
    let then = Connection(&[FLOW_CONTROL_ERROR]);
    all.add("6.9.1 overflow", &[window(0, most), window(0, most)], then);
    let then = Stream(1, &[FLOW_CONTROL_ERROR]);
    let twice = [post(1), window(1, most), window(1, most)];
    all.add("6.9.1 overflow of a stream", &twice, then);
    let shifted = [post(1), window(1, most - 65_535), settings(&[(4, 65_536)])];
    all.add(
        "6.9.2 overflow by settings",
        &shifted,
        Connection(&[FLOW_CONTROL_ERROR]),
    );
    all.add("6.9.1 reserved bit", &[window(0, 0x8000_0001)], Alive);
    all.add("6.9.1 one byte", &[settings(&[(4, 1)]), get(1)], Sends(1));
    all.add(
        "6.9.2 the last value",
        &[settings(&[(4, 100), (4, 2)]), get(1)],
        Sends(2),
    );
    let later = [settings(&[(4, 0)]), get(1), settings(&[(4, 1)])];
    all.add("6.9.2 changed later", &later, Sends(1));
    let negative = [
        settings(&[(4, 3)]),
        get(1),
        settings(&[(4, 2)]),
        window(1, 1),
    ];
    all.add("6.9.2 below what was sent", &negative, Sends(3));
    all.add(
        "6.9.2 by an update",
        &[settings(&[(4, 0)]), get(1), window(1, 2)],
        Sends(2),
    );
}
