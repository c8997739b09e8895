//! Which emoji exist, in which order, and which RPC votes for each.
//!
//! The list changed in 2019: `:relaxed:` left, `:doughnut:` took its place and
//! `:poop:` moved from the first place to the last. The voting service kept the
//! method of the emoji that left, so its API has one hundred votes in both eras.

use std::fmt;
use std::sync::LazyLock;

/// The year whose application is played: its list, its bot, its broken vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Era {
    /// One hundred emoji, `:poop:` first and always failing.
    #[value(name = "2018")]
    Y2018,
    /// Ninety-nine emoji, `:poop:` last, `:doughnut:` always failing.
    #[value(name = "2019")]
    Y2019,
}

impl Era {
    /// Both eras, oldest first.
    pub const ALL: [Self; 2] = [Self::Y2018, Self::Y2019];
}

impl fmt::Display for Era {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Y2018 => "2018",
            Self::Y2019 => "2019",
        })
    }
}

/// One emoji of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Emoji {
    /// Name between colons, such as `:joy:`.
    pub shortcode: &'static str,
    /// The emoji as text, one to three code points.
    pub unicode: &'static str,
}

/// The emoji of an era in page order.
pub fn list(era: Era) -> &'static [Emoji] {
    match era {
        Era::Y2018 => &LIST_2018,
        Era::Y2019 => &LIST_2019,
    }
}

/// The voting method for a shortcode: `Vote` and each word of the name capitalized.
///
/// Names that are not in any list follow the same rule; whether the method exists is
/// for the voting service to say.
pub fn method_of(shortcode: &str) -> String {
    let mut method = String::from("Vote");
    for word in shortcode.trim_matches(':').split('_') {
        let mut letters = word.chars();
        if let Some(first) = letters.next() {
            method.extend(first.to_uppercase());
            method.push_str(letters.as_str());
        }
    }
    method
}

/// The one hundred voting methods, each with the shortcode it counts.
pub fn votes() -> &'static [(String, &'static str)] {
    &VOTES
}

static VOTES: LazyLock<Vec<(String, &'static str)>> = LazyLock::new(|| {
    LIST_2018
        .iter()
        .map(|emoji| (method_of(emoji.shortcode), emoji.shortcode))
        .collect()
});

static LIST_2018: LazyLock<Vec<Emoji>> = LazyLock::new(|| {
    let doughnut = emoji(":doughnut:", "\u{1F369}");
    let poop = emoji(":poop:", "\u{1F4A9}");
    let mut list = vec![poop];
    for &entry in &LIST_2019 {
        match entry.shortcode {
            ":doughnut:" => list.push(emoji(":relaxed:", "\u{263A}\u{FE0F}")),
            ":ramen:" => list.extend([entry, doughnut]),
            ":poop:" => {}
            _ => list.push(entry),
        }
    }
    list
});

const fn emoji(shortcode: &'static str, unicode: &'static str) -> Emoji {
    Emoji { shortcode, unicode }
}

#[rustfmt::skip]
static LIST_2019: [Emoji; 99] = [
    emoji(":joy:", "\u{1F602}"),
    emoji(":sunglasses:", "\u{1F60E}"),
    emoji(":doughnut:", "\u{1F369}"),
    emoji(":stuck_out_tongue_winking_eye:", "\u{1F61C}"),
    emoji(":money_mouth_face:", "\u{1F911}"),
    emoji(":flushed:", "\u{1F633}"),
    emoji(":mask:", "\u{1F637}"),
    emoji(":nerd_face:", "\u{1F913}"),
    emoji(":ghost:", "\u{1F47B}"),
    emoji(":skull_and_crossbones:", "\u{2620}\u{FE0F}"),
    emoji(":heart_eyes_cat:", "\u{1F63B}"),
    emoji(":hear_no_evil:", "\u{1F649}"),
    emoji(":see_no_evil:", "\u{1F648}"),
    emoji(":speak_no_evil:", "\u{1F64A}"),
    emoji(":boy:", "\u{1F466}"),
    emoji(":girl:", "\u{1F467}"),
    emoji(":man:", "\u{1F468}"),
    emoji(":woman:", "\u{1F469}"),
    emoji(":older_man:", "\u{1F474}"),
    emoji(":policeman:", "\u{1F46E}"),
    emoji(":guardsman:", "\u{1F482}"),
    emoji(":construction_worker_man:", "\u{1F477}"),
    emoji(":prince:", "\u{1F934}"),
    emoji(":princess:", "\u{1F478}"),
    emoji(":man_in_tuxedo:", "\u{1F935}"),
    emoji(":bride_with_veil:", "\u{1F470}"),
    emoji(":mrs_claus:", "\u{1F936}"),
    emoji(":santa:", "\u{1F385}"),
    emoji(":turkey:", "\u{1F983}"),
    emoji(":rabbit:", "\u{1F430}"),
    emoji(":no_good_woman:", "\u{1F645}"),
    emoji(":ok_woman:", "\u{1F646}"),
    emoji(":raising_hand_woman:", "\u{1F64B}"),
    emoji(":bowing_man:", "\u{1F647}"),
    emoji(":man_facepalming:", "\u{1F926}\u{200D}\u{2642}"),
    emoji(":woman_shrugging:", "\u{1F937}\u{200D}\u{2640}"),
    emoji(":massage_woman:", "\u{1F486}"),
    emoji(":walking_man:", "\u{1F6B6}"),
    emoji(":running_man:", "\u{1F3C3}"),
    emoji(":dancer:", "\u{1F483}"),
    emoji(":man_dancing:", "\u{1F57A}"),
    emoji(":dancing_women:", "\u{1F46F}"),
    emoji(":rainbow:", "\u{1F308}"),
    emoji(":skier:", "\u{26F7}"),
    emoji(":golfing_man:", "\u{1F3CC}"),
    emoji(":surfing_man:", "\u{1F3C4}"),
    emoji(":basketball_man:", "\u{26F9}"),
    emoji(":biking_man:", "\u{1F6B4}"),
    emoji(":point_up_2:", "\u{1F446}"),
    emoji(":vulcan_salute:", "\u{1F596}"),
    emoji(":metal:", "\u{1F918}"),
    emoji(":call_me_hand:", "\u{1F919}"),
    emoji(":thumbsup:", "\u{1F44D}"),
    emoji(":wave:", "\u{1F44B}"),
    emoji(":clap:", "\u{1F44F}"),
    emoji(":raised_hands:", "\u{1F64C}"),
    emoji(":pray:", "\u{1F64F}"),
    emoji(":dog:", "\u{1F436}"),
    emoji(":cat2:", "\u{1F408}"),
    emoji(":pig:", "\u{1F437}"),
    emoji(":hatching_chick:", "\u{1F423}"),
    emoji(":snail:", "\u{1F40C}"),
    emoji(":bacon:", "\u{1F953}"),
    emoji(":pizza:", "\u{1F355}"),
    emoji(":taco:", "\u{1F32E}"),
    emoji(":burrito:", "\u{1F32F}"),
    emoji(":ramen:", "\u{1F35C}"),
    emoji(":champagne:", "\u{1F37E}"),
    emoji(":tropical_drink:", "\u{1F379}"),
    emoji(":beer:", "\u{1F37A}"),
    emoji(":tumbler_glass:", "\u{1F943}"),
    emoji(":world_map:", "\u{1F5FA}"),
    emoji(":beach_umbrella:", "\u{1F3D6}"),
    emoji(":mountain_snow:", "\u{1F3D4}"),
    emoji(":camping:", "\u{1F3D5}"),
    emoji(":steam_locomotive:", "\u{1F682}"),
    emoji(":flight_departure:", "\u{1F6EB}"),
    emoji(":rocket:", "\u{1F680}"),
    emoji(":star2:", "\u{1F31F}"),
    emoji(":sun_behind_small_cloud:", "\u{1F324}"),
    emoji(":cloud_with_rain:", "\u{1F327}"),
    emoji(":fire:", "\u{1F525}"),
    emoji(":jack_o_lantern:", "\u{1F383}"),
    emoji(":balloon:", "\u{1F388}"),
    emoji(":tada:", "\u{1F389}"),
    emoji(":trophy:", "\u{1F3C6}"),
    emoji(":iphone:", "\u{1F4F1}"),
    emoji(":pager:", "\u{1F4DF}"),
    emoji(":fax:", "\u{1F4E0}"),
    emoji(":bulb:", "\u{1F4A1}"),
    emoji(":money_with_wings:", "\u{1F4B8}"),
    emoji(":crystal_ball:", "\u{1F52E}"),
    emoji(":underage:", "\u{1F51E}"),
    emoji(":interrobang:", "\u{2049}\u{FE0F}"),
    emoji(":100:", "\u{1F4AF}"),
    emoji(":checkered_flag:", "\u{1F3C1}"),
    emoji(":crossed_swords:", "\u{2694}\u{FE0F}"),
    emoji(":floppy_disk:", "\u{1F4BE}"),
    emoji(":poop:", "\u{1F4A9}"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn names(era: Era) -> Vec<&'static str> {
        list(era).iter().map(|emoji| emoji.shortcode).collect()
    }

    #[test]
    fn the_list_of_2019_has_99_entries_in_page_order() {
        let names = names(Era::Y2019);
        assert_eq!(names.len(), 99);
        assert_eq!(names[..3], [":joy:", ":sunglasses:", ":doughnut:"]);
        assert_eq!(names[98], ":poop:");
        assert!(!names.contains(&":relaxed:"));
    }

    #[test]
    fn the_list_of_2018_has_100_entries_in_page_order() {
        let names = names(Era::Y2018);
        assert_eq!(names.len(), 100);
        assert_eq!(names[..4], [":poop:", ":joy:", ":sunglasses:", ":relaxed:"]);
        let ramen = names.iter().position(|name| *name == ":ramen:").unwrap();
        assert_eq!(names[ramen + 1..ramen + 3], [":doughnut:", ":champagne:"]);
        assert_eq!(names[99], ":floppy_disk:");
    }

    #[test]
    fn names_and_methods_are_unique() {
        let mut methods: Vec<_> = votes().iter().map(|(method, _)| method).collect();
        methods.sort();
        methods.dedup();
        assert_eq!(methods.len(), 100);
    }

    #[test]
    fn a_method_is_named_by_its_words() {
        for (shortcode, method) in [
            (":poop:", "VotePoop"),
            (
                ":stuck_out_tongue_winking_eye:",
                "VoteStuckOutTongueWinkingEye",
            ),
            (":100:", "Vote100"),
            (":star2:", "VoteStar2"),
            (":point_up_2:", "VotePointUp2"),
            (":jack_o_lantern:", "VoteJackOLantern"),
        ] {
            assert_eq!(method_of(shortcode), method);
        }
    }
}
