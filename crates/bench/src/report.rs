//! What was measured, and the table of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::proxies::Kind;

/// How a figure is judged.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Judge {
    /// Ours divided by the other, at most.
    RatioAtMost(Kind, f64),
    /// Ours divided by the other, at least.
    RatioAtLeast(Kind, f64),
    /// The figure itself, at most.
    AtMost(f64),
    /// For orientation.
    Not,
}

/// One measure: what, how it is judged, and the values of each proxy by round.
#[derive(Debug)]
pub(crate) struct Measure {
    pub(crate) what: &'static str,
    /// Which of ours is judged.
    pub(crate) subject: Kind,
    pub(crate) judge: Judge,
    pub(crate) decimals: usize,
    pub(crate) values: BTreeMap<&'static str, Vec<f64>>,
}

/// Median and quartiles.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    low: f64,
    median: f64,
    high: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        let at = |quarters: usize| sorted[(last * quarters + 2) / 4];
        let middle = (sorted[last / 2] + sorted[last.div_ceil(2)]) / 2.0;
        Some(Self {
            low: at(1),
            median: middle,
            high: at(3),
        })
    }

    fn text(self, decimals: usize) -> String {
        let Self { low, median, high } = self;
        format!("{median:.decimals$} ({low:.decimals$}–{high:.decimals$})")
    }
}

impl Measure {
    pub(crate) fn add(&mut self, kind: Kind, value: f64) {
        self.values.entry(kind.name()).or_default().push(value);
    }

    fn spread(&self, kind: Kind) -> Option<Spread> {
        Spread::of(self.values.get(kind.name())?)
    }

    /// Ours divided by the other, round by round.
    fn ratio(&self, other: Kind) -> Option<Spread> {
        let ours = self.values.get(self.subject.name())?;
        let other = self.values.get(other.name())?;
        let each: Vec<f64> = ours.iter().zip(other).map(|(a, b)| a / b).collect();
        Spread::of(&each)
    }

    /// What is judged, its text and whether it is reached. None where nothing was compared.
    fn judged(&self) -> Option<(String, String, bool)> {
        Some(match self.judge {
            Judge::RatioAtMost(other, most) => {
                let ratio = self.ratio(other)?;
                (ratio.text(2), format!("≤ {most}"), ratio.median <= most)
            }
            Judge::RatioAtLeast(other, least) => {
                let ratio = self.ratio(other)?;
                (ratio.text(2), format!("≥ {least}"), ratio.median >= least)
            }
            Judge::AtMost(most) => {
                let own = self.spread(self.subject)?;
                (String::new(), format!("≤ {most}"), own.median <= most)
            }
            Judge::Not => return None,
        })
    }
}

/// Returns the table as Markdown, and whether everything that was compared is reached.
pub(crate) fn table(measures: &[Measure]) -> (String, bool) {
    let mut text = String::from(
        "| measure | ours | HAProxy | nginx | ours without | ratio | must | |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    let mut all = true;
    for measure in measures.iter().filter(|each| !each.values.is_empty()) {
        let _ = write!(text, "| {} ", measure.what);
        let without = match measure.subject {
            Kind::SecuredPair => Kind::PlainPair,
            _ => Kind::OursUnrecorded,
        };
        for kind in [measure.subject, Kind::HaProxy, Kind::Nginx, without] {
            let cell = measure.spread(kind);
            let cell = cell.map_or_else(String::new, |spread| spread.text(measure.decimals));
            let _ = write!(text, "| {cell} ");
        }
        let (ratio, must, verdict) = match measure.judged() {
            Some((ratio, must, reached)) => {
                all &= reached;
                (ratio, must, if reached { "" } else { "missed" })
            }
            None => Default::default(),
        };
        let _ = writeln!(text, "| {ratio} | {must} | {verdict} |");
    }
    (text, all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_paired_ratios_is_judged() {
        let mut measure = Measure {
            what: "CPU",
            subject: Kind::Ours,
            judge: Judge::RatioAtMost(Kind::HaProxy, 1.25),
            decimals: 1,
            values: BTreeMap::new(),
        };
        for (ours, other) in [(10.0, 10.0), (40.0, 20.0), (12.0, 10.0)] {
            measure.add(Kind::Ours, ours);
            measure.add(Kind::HaProxy, other);
        }
        let (ratio, must, reached) = measure.judged().expect("compared");
        assert_eq!(ratio, "1.20 (1.20–2.00)");
        assert_eq!(must, "≤ 1.25");
        assert!(reached);
        measure.judge = Judge::RatioAtMost(Kind::HaProxy, 1.1);
        let (text, all) = table(&[measure]);
        assert!(!all && text.contains("missed"), "{text}");
    }

    #[test]
    fn what_was_not_measured_is_not_judged() {
        let measure = Measure {
            what: "CPU",
            subject: Kind::Ours,
            judge: Judge::RatioAtMost(Kind::HaProxy, 1.25),
            decimals: 1,
            values: BTreeMap::from([(Kind::Ours.name(), vec![3.0])]),
        };
        assert!(table(&[measure]).1);
    }
}
