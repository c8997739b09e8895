use proptest::prelude::*;

use super::*;

fn frame(sequence: u64, payload: Option<&[u8]>) -> Frame<'_> {
    Frame {
        proxy: ProxyName {
            namespace: "emojivoto".into(),
            workload: "web".into(),
            instance: "web-0".into(),
        },
        boot: BootId(u64::MAX - 7),
        sequence,
        received_us: 1_769_868_151_000_000,
        clock_offset_us: -5,
        payload,
    }
}

fn file(payloads: &[&[u8]]) -> (Vec<u8>, Vec<usize>) {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::create(dir.path(), 1).unwrap();
    let mut starts = Vec::new();
    for (place, payload) in payloads.iter().enumerate() {
        starts.push(usize::try_from(writer.length()).unwrap());
        writer
            .append(&frame(place as u64 + 1, Some(payload)))
            .unwrap();
    }
    (std::fs::read(writer.path()).unwrap(), starts)
}

fn sequences(bytes: &[u8]) -> (Vec<u64>, usize, usize) {
    let (mut frames, mut damaged, mut torn) = (Vec::new(), 0, 0);
    for step in Reader::new(bytes).unwrap() {
        match step {
            Step::Frame(frame) => frames.push(frame.sequence),
            Step::Damaged(_) => damaged += 1,
            Step::Torn(_) => torn += 1,
        }
    }
    (frames, damaged, torn)
}

#[test]
fn frames_come_back_as_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::create(dir.path(), 3).unwrap();
    assert!(writer.is_empty());
    writer.append(&frame(1, Some(b"abc"))).unwrap();
    writer.append(&frame(9, None)).unwrap();
    let length = writer.length();
    drop(writer);
    let mut writer = Writer::resume(dir.path(), 3, length).unwrap();
    writer.append(&frame(10, Some(b""))).unwrap();
    let bytes = std::fs::read(writer.path()).unwrap();
    let steps: Vec<Step<'_>> = Reader::new(&bytes).unwrap().collect();
    assert_eq!(
        steps,
        [
            Step::Frame(frame(1, Some(b"abc"))),
            Step::Frame(frame(9, None)),
            Step::Frame(frame(10, Some(b""))),
        ]
    );
    assert_eq!(list(dir.path()).unwrap(), [(3, path(dir.path(), 3))]);
}

#[test]
fn every_cut_of_the_last_frame_is_torn_and_costs_no_other() {
    let (bytes, starts) = file(&[b"one", b"two", b"three"]);
    for cut in starts[2] + 1..bytes.len() {
        assert_eq!(sequences(&bytes[..cut]), (vec![1, 2], 0, 1), "cut at {cut}");
    }
    assert_eq!(sequences(&bytes[..starts[2]]), (vec![1, 2], 0, 0));
}

#[test]
fn a_damaged_byte_costs_one_frame() {
    let (bytes, starts) = file(&[b"one", b"two", b"three"]);
    for at in starts[1]..starts[2] {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x20;
        assert_eq!(sequences(&bytes), (vec![1, 3], 1, 0), "byte {at}");
    }
}

#[test]
fn a_batch_that_contains_a_frame_is_no_frame() {
    let (inner, starts) = file(&[b"inner"]);
    let (bytes, _) = file(&[&inner[starts[0]..], b"two"]);
    assert_eq!(sequences(&bytes), (vec![1, 2], 0, 0));
}

#[test]
fn a_newer_file_is_refused() {
    let (mut bytes, _) = file(&[]);
    bytes[12] = 2;
    assert_eq!(Reader::new(&bytes).err(), Some(Newer(2)));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), magic in 0usize..300) {
        let mut bytes = bytes;
        if let Some(place) = bytes.get_mut(magic..magic + 4) {
            place.copy_from_slice(&FRAME_MAGIC);
        }
        if let Ok(reader) = Reader::new(&bytes) {
            let _ = reader.count();
        }
    }
}
