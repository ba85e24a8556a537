//! Who asked: shares of belief, from what the log says for and against it.
//!
//! A block names no connection. What is left after the facts (open before it
//! began, not closed before it ended) is weighed, and the requests that wait are
//! weighed against each other: one connection does not speak for two machines.
//! Distances are counted in *ticks* (accepted and closed lines and markers),
//! since a busy server writes many lines within one stamp. The curves were fitted
//! to the recordings of four server versions; docs/decisions.md says how.

/// A share from which one address is called the one.
pub(super) const SURE: f64 = 0.98;

/// A request that no connection in the table may have made, for a log that was
/// joined late and for one that was read from its start.
pub(super) const UNSEEN_LATE: f64 = 0.005;
pub(super) const UNSEEN: f64 = 1e-6;

/// How likely a connection asks for the first time, so many ticks after it was
/// accepted: mostly at once, in a crowd some time later. `age` is that time in
/// whole seconds.
pub(super) fn asks_first(gap: u64, age: Option<i64>) -> f64 {
    let at_once = if gap <= 1 { 0.13 } else { 0.0 };
    let in_a_crowd = 0.22 * CROWD.get(gap.saturating_sub(1));
    // Clients ask within milliseconds. Who has said nothing for seconds is a
    // monitor or a scanner; stamps a second apart may be neighbours.
    let idle = match age {
        Some(2..) => 0.02,
        Some(1) => 0.25,
        _ => 1.0,
    };
    (at_once + in_a_crowd + 1e-4) * idle
}

/// How likely a connection that spoke for this machine asks again, one that
/// spoke for another machine asks for this one, and one that spoke for a machine
/// that the log does not name.
pub(super) const SAME_MACHINE: f64 = 0.02;
pub(super) const OTHER_MACHINE: f64 = 1e-8;
pub(super) const SOME_MACHINE: f64 = 0.02;
/// A connection from before the server's last restart.
pub(super) const STALE: f64 = 0.01;
/// The address that this machine was last seen at: much, but not enough against
/// a connection that fits in every other way. It is the client's word.
pub(super) const KNOWN_ADDRESS: f64 = 60.0;

/// How likely an asker closes so many ticks after its answer; `open` is that it
/// has not done so yet. Four in ten hold on.
pub(super) fn closes_after_answer(gap: u64, open: bool) -> f64 {
    if open {
        0.4 + 0.6 * HALF.get(gap)
    } else {
        let at_once = if gap <= 1 { 0.12 } else { 0.0 };
        at_once + 0.03 * ANSWERED.get(gap) + 1e-4
    }
}

/// The same for a connection that asks nothing, from its accepted line on, times
/// how rare such connections are.
pub(super) fn closes_unasked(gap: u64, open: bool) -> f64 {
    if open {
        0.09 + 0.013 * UNASKED.get(gap)
    } else {
        0.13 * UNASKED.get(gap) + 1e-3
    }
}

/// How much less likely an address asks that has so far only probed. Bounded so
/// that it never decides by itself.
pub(super) fn prober(probes: u32, requests: u32) -> f64 {
    if requests > 0 {
        1.0
    } else {
        f64::from(probes.saturating_add(1)).min(3.0)
    }
}

/// Powers of these bases up to 511 are looked up: they are asked for millions of
/// times in a replay.
const POWERS: usize = 512;

struct Powers([f64; POWERS]);

impl Powers {
    const fn of(base: f64) -> Self {
        let mut powers = [1.0; POWERS];
        let mut at = 1;
        #[expect(
            clippy::indexing_slicing,
            reason = "at is below the length, and checked at compile time"
        )]
        while at < POWERS {
            powers[at] = powers[at - 1] * base;
            at += 1;
        }
        Self(powers)
    }

    /// What is beyond the table is no more than its last entry, and as good as nothing.
    fn get(&self, exponent: u64) -> f64 {
        let at = usize::try_from(exponent).unwrap_or(POWERS).min(POWERS - 1);
        self.0.get(at).copied().unwrap_or(0.0)
    }
}

static CROWD: Powers = Powers::of(0.9);
static HALF: Powers = Powers::of(0.5);
static ANSWERED: Powers = Powers::of(0.94);
static UNASKED: Powers = Powers::of(0.985);

/// Rows of belief: for each request (or several of one machine) that waits, what
/// speaks for each connection, first as odds (how much more it would ask than not)
/// and in the end as a share. A cell is (column, odds), each column once in a row.
#[derive(Debug, Default)]
pub(super) struct Rows {
    cells: Vec<(usize, f64)>,
    /// Where each row ends in `cells`.
    ends: Vec<usize>,
}

impl Rows {
    pub(super) fn clear(&mut self) {
        self.cells.clear();
        self.ends.clear();
    }

    /// Adds a cell to the row that is being made.
    pub(super) fn push(&mut self, column: usize, odds: f64) {
        self.cells.push((column, odds));
    }

    /// The row that is being made is whole.
    pub(super) fn end_row(&mut self) {
        self.ends.push(self.cells.len());
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    fn range(&self, row: usize) -> std::ops::Range<usize> {
        let end = |row: usize| self.ends.get(row).copied().unwrap_or(self.cells.len());
        row.checked_sub(1).map_or(0, end)..end(row)
    }

    pub(super) fn row(&self, row: usize) -> &[(usize, f64)] {
        self.cells.get(self.range(row)).unwrap_or_default()
    }

    fn row_mut(&mut self, row: usize) -> &mut [(usize, f64)] {
        let range = self.range(row);
        self.cells.get_mut(range).unwrap_or_default()
    }
}

/// Room for one weighing after the other.
#[derive(Debug, Default)]
pub(super) struct Weigher {
    /// By column: the rows that it is in, a bit for each.
    rows_of: Vec<u64>,
    /// The rows that are weighed together.
    group: Vec<usize>,
    counting: Counting,
    balancing: Balancing,
}

impl Weigher {
    /// Turns odds into shares of belief; what is missing to 1 is `unseen`.
    /// There are at most 64 rows, and so many columns.
    ///
    /// Each row belongs to one column or to none that is seen, each column to one
    /// row or to none: a share is the weight of all such assignments with that pair,
    /// out of all. Rows that share no column are weighed apart.
    pub(super) fn weigh(&mut self, rows: &mut Rows, columns: usize, unseen: f64) {
        if rows.len() == 1 {
            let sum = unseen + rows.cells.iter().map(|(_, odds)| odds).sum::<f64>();
            for (_, odds) in &mut rows.cells {
                *odds /= sum.max(f64::MIN_POSITIVE);
            }
            return;
        }
        self.rows_of.clear();
        self.rows_of.resize(columns, 0);
        for row in 0..rows.len() {
            for (column, _) in rows.row(row) {
                if let Some(of) = self.rows_of.get_mut(*column) {
                    *of |= bit(row);
                }
            }
        }
        let mut left = (0..rows.len()).fold(0, |all, row| all | bit(row));
        while left != 0 {
            // Rows that share columns, directly or by way of others.
            let together = reached(left & left.wrapping_neg(), |row| {
                let of = |(column, _): &(usize, f64)| self.rows_of.get(*column);
                rows.row(row)
                    .iter()
                    .filter_map(of)
                    .fold(0, |all, of| all | of)
            });
            left &= !together;
            self.group.clear();
            self.group.extend(bits(together));
            if self.group.len() <= MAX_COUNTED {
                self.counting.weigh(rows, &self.group, columns, unseen);
            } else {
                self.balancing.weigh(rows, &self.group, columns, unseen);
            }
        }
    }
}

/// A set of rows and all that it leads to, where each leads to some others.
pub(super) fn reached(from: u64, others: impl Fn(usize) -> u64) -> u64 {
    let (mut reached, mut new) = (from, from);
    while new != 0 {
        let met = bits(new).fold(0, |met, row| met | others(row));
        new = met & !reached;
        reached |= new;
    }
    reached
}

/// The set of this row alone.
pub(super) fn bit(row: usize) -> u64 {
    let row = u32::try_from(row).ok();
    row.and_then(|row| 1_u64.checked_shl(row)).unwrap_or(0)
}

/// The rows in a set, in order.
pub(super) fn bits(mut set: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let row = (set != 0).then(|| set.trailing_zeros() as usize)?;
        set &= set - 1;
        Some(row)
    })
}

/// Rows whose assignments are all counted; the work doubles with each.
const MAX_COUNTED: usize = 8;

/// Exact shares of a few rows: a sum over all assignments, column by column, with
/// the set of rows that have theirs as the state.
#[derive(Debug, Default)]
struct Counting {
    /// The place of each column among those of the group, in order of appearance.
    places: Vec<usize>,
    /// The cells of the group by the place of their column.
    askers: Vec<Vec<Asker>>,
    /// How many of them are of this group.
    used: usize,
    after: Vec<f64>,
}

/// A cell, seen from its column.
#[derive(Clone, Copy, Debug)]
struct Asker {
    /// The row's bit in a state.
    bit: usize,
    odds: f64,
    /// Its row, and its place there.
    row: usize,
    cell: usize,
}

impl Counting {
    fn weigh(&mut self, rows: &mut Rows, group: &[usize], columns: usize, unseen: f64) {
        self.gather(rows, group, columns);
        // A number of states that is known beforehand needs no check at every step.
        match group.len() {
            0..=2 => self.count::<4>(rows, group.len(), unseen),
            3 => self.count::<8>(rows, 3, unseen),
            4 => self.count::<16>(rows, 4, unseen),
            5 => self.count::<32>(rows, 5, unseen),
            6 => self.count::<64>(rows, 6, unseen),
            7 => self.count::<128>(rows, 7, unseen),
            _ => self.count::<256>(rows, 8, unseen),
        }
    }

    /// Sorts the cells by column.
    fn gather(&mut self, rows: &Rows, group: &[usize], columns: usize) {
        self.places.clear();
        self.places.resize(columns, usize::MAX);
        self.used = 0;
        for (bit, row) in group.iter().enumerate() {
            for (cell, (column, odds)) in rows.row(*row).iter().enumerate() {
                let Some(place) = self.places.get_mut(*column) else {
                    continue;
                };
                if *place == usize::MAX {
                    *place = self.used;
                    self.used += 1;
                    match self.askers.get_mut(*place) {
                        Some(askers) => askers.clear(),
                        None => self.askers.push(Vec::with_capacity(group.len())),
                    }
                }
                if let Some(askers) = self.askers.get_mut(*place) {
                    askers.push(Asker {
                        bit: 1 << bit,
                        odds: *odds,
                        row: *row,
                        cell,
                    });
                }
            }
        }
    }

    fn count<const STATES: usize>(&mut self, rows: &mut Rows, members: usize, unseen: f64) {
        let askers = self.askers.get(..self.used).unwrap_or_default();
        // after[c]: the weight of all ways to go on from column c, by the rows served.
        self.after.clear();
        self.after.resize((self.used + 1) * STATES, 0.0);
        let (after, _) = self.after.as_chunks_mut::<STATES>();
        let mut later = after.iter_mut().rev();
        let mut last = [0.0; STATES];
        let mut lone = 1.0;
        for left in 0..=members {
            for (set, weight) in last.iter_mut().enumerate() {
                if set < 1 << members && members - set.count_ones() as usize == left {
                    *weight = lone;
                }
            }
            lone *= unseen;
        }
        if let Some(end) = later.next() {
            *end = last;
        }
        let mut next = &last;
        for (askers, here) in askers.iter().rev().zip(later) {
            *here = *next;
            for asker in askers {
                let add = Add {
                    into: here,
                    from: next,
                    odds: asker.odds,
                    to_served: false,
                };
                step(asker.bit, add);
            }
            next = here;
        }
        let total = next[0].max(f64::MIN_POSITIVE);
        // before: the weight of all ways to have come to this column, by the rows served.
        let mut before = [0.0; STATES];
        before[0] = 1.0;
        let (after, _) = self.after.as_chunks::<STATES>();
        for (askers, after) in askers.iter().zip(after.iter().skip(1)) {
            for asker in askers {
                let before = &before;
                let share = step(asker.bit, Share { before, after });
                if let Some((_, cell)) = rows.row_mut(asker.row).get_mut(asker.cell) {
                    *cell = share * asker.odds / total;
                }
            }
            let mut come = before;
            for asker in askers {
                let add = Add {
                    into: &mut come,
                    from: &before,
                    odds: asker.odds,
                    to_served: true,
                };
                step(asker.bit, add);
            }
            before = come;
        }
    }
}

/// One row's step over the states of a group. Each is written once and compiled for
/// every bit that is common: where runs have a known length, a step over sixteen
/// states is a dozen instructions.
trait Step {
    type Result;
    fn with(self, bit: usize) -> Self::Result;
}

#[inline(always)]
fn step<S: Step>(bit: usize, step: S) -> S::Result {
    match bit {
        1 => step.with(1),
        2 => step.with(2),
        4 => step.with(4),
        8 => step.with(8),
        other => step.with(other),
    }
}

/// Adds `odds` times the states of `from` on one side of the row to those of `into`
/// on the other: to those with it from those without it, or back.
struct Add<'a, const STATES: usize> {
    into: &'a mut [f64; STATES],
    from: &'a [f64; STATES],
    odds: f64,
    to_served: bool,
}

impl<const STATES: usize> Step for Add<'_, STATES> {
    type Result = ();

    #[inline(always)]
    fn with(self, bit: usize) {
        // Runs of states without the row, then with it, as long as its bit's value.
        let from = self.from.chunks_exact(2 * bit);
        for (into, from) in self.into.chunks_exact_mut(2 * bit).zip(from) {
            let (unserved, served) = into.split_at_mut(bit);
            let (from_unserved, from_served) = from.split_at(bit);
            let (into, from) = match self.to_served {
                true => (served, from_unserved),
                false => (unserved, from_served),
            };
            for (into, from) in into.iter_mut().zip(from) {
                *into += self.odds * from;
            }
        }
    }
}

/// The weight of all ways in which the row is served here.
struct Share<'a, const STATES: usize> {
    before: &'a [f64; STATES],
    after: &'a [f64; STATES],
}

impl<const STATES: usize> Step for Share<'_, STATES> {
    type Result = f64;

    #[inline(always)]
    fn with(self, bit: usize) -> f64 {
        let mut share = 0.0;
        let after = self.after.chunks_exact(2 * bit);
        for (before, after) in self.before.chunks_exact(2 * bit).zip(after) {
            let ((unserved, _), (_, served)) = (before.split_at(bit), after.split_at(bit));
            let pairs = unserved.iter().zip(served);
            share += pairs.map(|(before, after)| *before * after).sum::<f64>();
        }
        share
    }
}

/// How many cells are added up side by side.
const LANES: usize = 4;

/// Nearly the same for a crowd: rows and columns are scaled in turns until both
/// add up (Sinkhorn's balance). It errs on the side of doubt.
#[derive(Debug, Default)]
struct Balancing {
    /// The odds, row by row, each as wide as there are columns and then filled up
    /// to whole lanes; zero where a row has no cell.
    odds: Vec<f64>,
    scales: Vec<f64>,
    load: Vec<f64>,
}

impl Balancing {
    fn weigh(&mut self, rows: &mut Rows, group: &[usize], columns: usize, unseen: f64) {
        const ROUNDS: usize = 40;
        let width = columns.next_multiple_of(LANES);
        self.odds.clear();
        self.odds.resize(width * group.len(), 0.0);
        for (dense, row) in self.odds.chunks_exact_mut(width).zip(group) {
            for (column, odds) in rows.row(*row) {
                if let Some(cell) = dense.get_mut(*column) {
                    *cell = *odds;
                }
            }
        }
        self.scales.clear();
        self.scales.resize(width, 1.0);
        self.load.resize(width, 1.0);
        for _ in 0..ROUNDS {
            self.load.fill(1.0);
            for odds in self.odds.chunks_exact(width) {
                let share = 1.0 / (unseen + claim(odds, &self.scales));
                for (load, odds) in self.load.iter_mut().zip(odds) {
                    *load += odds * share;
                }
            }
            let mut change = 0.0_f64;
            for (scale, load) in self.scales.iter_mut().zip(&self.load) {
                let new = 1.0 / load;
                change = change.max((new / *scale - 1.0).abs());
                *scale = new;
            }
            if change < 1e-3 {
                break;
            }
        }
        for (odds, row) in self.odds.chunks_exact(width).zip(group) {
            let sum = unseen + claim(odds, &self.scales);
            for (column, share) in rows.row_mut(*row) {
                *share *= at(&self.scales, *column) / sum;
            }
        }
    }
}

/// What a row claims of all columns together.
fn claim(odds: &[f64], scales: &[f64]) -> f64 {
    let mut sums = [0.0; LANES];
    let lanes = odds.chunks_exact(LANES).zip(scales.chunks_exact(LANES));
    for (odds, scales) in lanes {
        for ((sum, odds), scale) in sums.iter_mut().zip(odds).zip(scales) {
            *sum += odds * scale;
        }
    }
    sums.iter().sum()
}

fn at(list: &[f64], index: usize) -> f64 {
    list.get(index).copied().unwrap_or(1.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Row = Vec<(usize, f64)>;

    fn shares(rows: &[Row], idle: &[f64], unseen: f64) -> Vec<Row> {
        let mut flat = Rows::default();
        for row in rows {
            for (column, weight) in row {
                flat.push(*column, *weight / idle[*column]);
            }
            flat.end_row();
        }
        Weigher::default().weigh(&mut flat, idle.len(), unseen);
        (0..rows.len()).map(|row| flat.row(row).to_vec()).collect()
    }

    fn close(share: f64, expected: f64) -> bool {
        (share - expected).abs() < 1e-3
    }

    #[test]
    fn one_request_goes_by_the_odds() {
        let shares = shares(&[vec![(0, 0.3), (1, 0.1)]], &[1.0, 1.0], 0.0);
        assert!(close(shares[0][0].1, 0.75), "{shares:?}");
    }

    #[test]
    fn who_would_else_be_a_rare_sight_is_the_likelier_asker() {
        let shares = shares(&[vec![(0, 0.3), (1, 0.3)]], &[0.1, 1.0], 0.0);
        assert!(close(shares[0][0].1, 10.0 / 11.0), "{shares:?}");
    }

    #[test]
    fn a_connection_that_one_request_needs_is_free_for_no_other() {
        // The second can only be 1's, so the first is 0's, though 1 fits it better.
        let rows = [vec![(0, 0.1), (1, 0.9)], vec![(1, 0.5)]];
        let shares = shares(&rows, &[1.0, 1.0], 1e-6);
        assert!(shares[0][0].1 > 0.99, "{shares:?}");
        assert!(shares[1][0].1 > 0.99, "{shares:?}");
    }

    #[test]
    fn a_request_without_any_connection_has_no_share() {
        assert_eq!(shares(&[vec![]], &[], UNSEEN), vec![Row::new()]);
    }

    #[test]
    fn a_crowd_is_weighed_like_a_few() {
        // Two of everything in a circle: more rows than are counted one by one.
        let circle = |n: usize| -> Vec<Row> {
            (0..n)
                .map(|row| vec![(row, 0.6), ((row + 1) % n, 0.3)])
                .collect()
        };
        for n in [3, MAX_COUNTED, MAX_COUNTED + 1, 40] {
            let shares = shares(&circle(n), &vec![1.0; n], 1e-6);
            for row in &shares {
                let by_column =
                    |column| row.iter().find(|(c, _)| *c == column).map_or(0.0, |s| s.1);
                assert!(
                    by_column(row[0].0) > 0.0 && close(row.iter().map(|s| s.1).sum(), 1.0),
                    "{n}"
                );
            }
        }
    }

    #[test]
    fn an_address_that_only_probes_never_decides() {
        let odds = prober(u32::MAX, 0);
        assert!(odds / (1.0 + odds) < SURE);
        assert_eq!(prober(u32::MAX, 1), 1.0);
    }

    proptest! {
        /// Shares are shares, whoever waits: none negative, none above one.
        #[test]
        fn shares_never_exceed_one(
            weights in proptest::collection::vec(proptest::collection::vec(1e-9_f64..10.0, 6), 1..12),
            idle in proptest::collection::vec(1e-6_f64..10.0, 6),
        ) {
            let rows: Vec<Row> = weights.iter().map(|row| row.iter().copied().enumerate().collect()).collect();
            for row in shares(&rows, &idle, UNSEEN_LATE) {
                let sum: f64 = row.iter().map(|(_, share)| share).sum();
                prop_assert!(sum <= 1.0 + 1e-6 && row.iter().all(|(_, share)| *share >= 0.0), "{row:?}");
            }
        }
    }
}
