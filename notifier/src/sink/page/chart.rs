//! Bars for the charts, in the units of their drawing.

use jiff::Timestamp;

/// Width of one hour and height of the tallest bar.
const STEP: u64 = 10;
pub(super) const HEIGHT: u64 = 60;
/// A bar that stands for something can be seen.
const LEAST: u64 = 2;

/// One chart.
pub(super) struct Chart {
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    pub(super) bars: Vec<Bar>,
    pub(super) total: u64,
    pub(super) most: u64,
    pub(super) first: String,
    pub(super) last: String,
    pub(super) width: u64,
}

/// One hour.
pub(super) struct Bar {
    pub(super) x: u64,
    pub(super) y: u64,
    pub(super) height: u64,
    pub(super) count: u64,
    pub(super) hour: String,
}

impl Chart {
    /// Bars for hours, oldest first.
    pub(super) fn new(
        id: &'static str,
        title: &'static str,
        hours: impl Iterator<Item = (Timestamp, u64)>,
    ) -> Self {
        let hours: Vec<_> = hours.collect();
        let most = hours.iter().map(|(_, count)| *count).max().unwrap_or(0);
        let hour = |at: Option<&(Timestamp, u64)>| {
            at.map_or_else(String::new, |(at, _)| at.strftime("%H:00").to_string())
        };
        let bars = hours.iter().zip(0_u64..).map(|((at, count), n)| {
            // The quotient is at most HEIGHT: no count is above the most.
            let share = u128::from(*count) * u128::from(HEIGHT) / u128::from(most.max(1));
            let height = match u64::try_from(share).unwrap_or(HEIGHT) {
                _ if *count == 0 => 0,
                height => height.max(LEAST),
            };
            Bar {
                x: n * STEP + 1,
                y: HEIGHT - height,
                height,
                count: *count,
                hour: at.strftime("%H:00").to_string(),
            }
        });
        Self {
            id,
            title,
            bars: bars.collect(),
            total: hours.iter().map(|(_, count)| *count).sum(),
            most,
            first: hour(hours.first()),
            last: hour(hours.last()),
            width: hours.len() as u64 * STEP,
        }
    }
}
