//! Says whether a number that was read many times grows: a line through it, and how sure
//! that line is.

/// A straight line through samples, by least squares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    /// Mean of the values.
    pub mean: f64,
    /// Growth per unit of time.
    pub slope: f64,
    /// Standard error of the slope: how much of it may be noise.
    pub error: f64,
}

impl Line {
    /// Lays a line through pairs of time and value; none with fewer than three samples, or
    /// when all are of one moment.
    #[must_use]
    pub fn through(samples: &[(f64, f64)]) -> Option<Self> {
        if samples.len() < 3 {
            return None;
        }
        let count = count(samples.len());
        let mean_of = |of: fn(&(f64, f64)) -> f64| samples.iter().map(of).sum::<f64>() / count;
        let (time, mean) = (mean_of(|sample| sample.0), mean_of(|sample| sample.1));
        let spread: f64 = samples.iter().map(|(at, _)| (at - time).powi(2)).sum();
        if spread == 0.0 {
            return None;
        }
        let together = samples
            .iter()
            .map(|(at, value)| (at - time) * (value - mean));
        let slope = together.sum::<f64>() / spread;
        let off = |(at, value): &(f64, f64)| (value - mean - slope * (at - time)).powi(2);
        let variance = samples.iter().map(off).sum::<f64>() / (count - 2.0);
        Some(Self {
            mean,
            slope,
            error: (variance / spread).sqrt(),
        })
    }

    /// Returns the growth per unit of time that is left when noise is given the benefit of
    /// the doubt: two standard errors.
    #[must_use]
    pub fn sure(&self) -> f64 {
        (self.slope.abs() - 2.0 * self.error).max(0.0) * self.slope.signum()
    }
}

/// Says whether memory leaks: it surely grows by more than `per_hour` an hour, and has grown
/// by more than what one hour allows. A short run can see large leaks only.
#[must_use]
pub fn leaks(line: &Line, hours: f64, per_hour: f64) -> bool {
    line.sure() > per_hour && line.sure() * hours > per_hour
}

/// Says whether a count drifts: over the whole time it surely moves by more than `part` of
/// its mean, and by more than `slack`.
#[must_use]
pub fn drifts(line: &Line, time: f64, part: f64, slack: f64) -> bool {
    let moved = line.sure().abs() * time;
    moved > line.mean * part && moved > slack
}

fn count(length: usize) -> f64 {
    f64::from(u32::try_from(length).unwrap_or(u32::MAX))
}
