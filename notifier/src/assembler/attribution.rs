//! Who asked: shares of belief, from what the log says for and against it.
//!
//! A block names no connection. What is left after the facts (open before it
//! began, not closed before it ended) is weighed, and the requests that wait are
//! weighed against each other: one connection does not speak for two machines.
//! Distances are counted in *ticks* (accepted and closed lines and markers),
//! since a busy server writes many lines within one stamp. The curves were fitted
//! to the recordings of four server versions; docs/decisions.md says how.

use jiff::SignedDuration;

/// A share from which one address is called the one.
pub(super) const SURE: f64 = 0.98;

/// A request that no connection in the table may have made, for a log that was
/// joined late and for one that was read from its start.
pub(super) const UNSEEN_LATE: f64 = 0.005;
pub(super) const UNSEEN: f64 = 1e-6;

/// How likely a connection asks for the first time, so many ticks after it was
/// accepted: mostly at once, in a crowd some time later.
pub(super) fn asks_first(gap: u64, age: Option<SignedDuration>) -> f64 {
    let at_once = if gap <= 1 { 0.13 } else { 0.0 };
    let in_a_crowd = 0.22 * CROWD.get(gap.saturating_sub(1));
    // Clients ask within milliseconds. Who has said nothing for seconds is a
    // monitor or a scanner; stamps a second apart may be neighbours.
    let idle = match age.map(|age| age.as_secs()) {
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

/// One request (or several of one machine) that waits, and what speaks for each
/// connection: (column, weight), each column once.
pub(super) type Row = Vec<(usize, f64)>;

/// Shares of belief, in the shape of `rows`; what is missing to 1 is `unseen`.
///
/// `idle` has, for every column, the weight of its asking nothing at all. Each
/// row belongs to one column or to none that is seen, each column to one row or
/// to none: a share is the weight of all such assignments with that pair, out of
/// all. Rows that share no column are weighed apart.
pub(super) fn shares(mut rows: Vec<Row>, idle: &[f64], unseen: f64) -> Vec<Row> {
    for (column, weight) in rows.iter_mut().flatten() {
        // Only how much more a column would ask than not matters.
        *weight /= at(idle, *column);
    }
    if let [row] = rows.as_mut_slice() {
        let sum = unseen + row.iter().map(|(_, odds)| odds).sum::<f64>();
        for (_, odds) in row {
            *odds /= sum.max(f64::MIN_POSITIVE);
        }
        return rows;
    }
    let mut shares: Vec<Row> = vec![Row::new(); rows.len()];
    for group in groups(&rows, idle.len()) {
        let members: Vec<&Row> = group.iter().filter_map(|row| rows.get(*row)).collect();
        let weighed = if members.len() <= MAX_COUNTED {
            counted(&members, unseen)
        } else {
            balanced(&members, idle.len(), unseen)
        };
        for (row, weighed) in group.into_iter().zip(weighed) {
            if let Some(share) = shares.get_mut(row) {
                *share = weighed;
            }
        }
    }
    shares
}

/// Rows that share columns, by their indices.
fn groups(rows: &[Row], columns: usize) -> Vec<Vec<usize>> {
    let mut owner: Vec<Option<usize>> = vec![None; columns];
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        let mut joined = vec![index];
        for (column, _) in row {
            if let Some(other) = owner.get(*column).copied().flatten()
                && let Some(group) = groups.get_mut(other)
            {
                joined.append(group);
            }
        }
        joined.sort_unstable();
        let members = joined.iter().filter_map(|member| rows.get(*member));
        for (column, _) in members.flatten() {
            if let Some(owner) = owner.get_mut(*column) {
                *owner = Some(groups.len());
            }
        }
        groups.push(joined);
    }
    groups.retain(|group| !group.is_empty());
    groups
}

/// Rows whose assignments are all counted; the work doubles with each.
const MAX_COUNTED: usize = 8;

/// Exact shares of a few rows: a sum over all assignments, column by column, with
/// the set of rows that have theirs as the state.
fn counted(rows: &[&Row], unseen: f64) -> Vec<Row> {
    let states = 1_usize << rows.len();
    // By column: (row's bit, its odds).
    let mut columns: Vec<(usize, Vec<(usize, f64)>)> = Vec::new();
    for (bit, row) in rows.iter().enumerate() {
        for (column, odds) in row.iter() {
            match columns.iter_mut().find(|(known, _)| known == column) {
                Some((_, askers)) => askers.push((bit, *odds)),
                None => columns.push((*column, vec![(bit, *odds)])),
            }
        }
    }
    // after[c]: the weight of all ways to go on from column c, by the rows served.
    let mut after = vec![0.0; (columns.len() + 1) * states];
    let mut later = after.chunks_exact_mut(states).rev();
    let mut next = later.next().unwrap_or_default();
    let mut lone = 1.0;
    for left in 0..=rows.len() {
        for (set, weight) in next.iter_mut().enumerate() {
            if rows.len() - set.count_ones() as usize == left {
                *weight = lone;
            }
        }
        lone *= unseen;
    }
    for ((_, askers), here) in columns.iter().rev().zip(later) {
        here.copy_from_slice(next);
        for (bit, odds) in askers {
            for (unserved, served) in halves(here, next, *bit) {
                for (here, next) in unserved.iter_mut().zip(served) {
                    *here += odds * next;
                }
            }
        }
        next = here;
    }
    let total = next.first().copied().unwrap_or(1.0).max(f64::MIN_POSITIVE);
    // before: the weight of all ways to have come to this column, by the rows served.
    let mut before = vec![0.0; states];
    if let Some(empty) = before.first_mut() {
        *empty = 1.0;
    }
    let mut come = before.clone();
    let mut shares: Vec<Row> = vec![Row::new(); rows.len()];
    for ((column, askers), after) in columns.iter().zip(after.chunks_exact(states).skip(1)) {
        for (bit, odds) in askers {
            let mut share = 0.0;
            for (unserved, served) in halves(&mut before, after, *bit) {
                let pairs = unserved.iter().zip(served);
                share += pairs.map(|(before, after)| before * after).sum::<f64>();
            }
            if let Some(row) = shares.get_mut(*bit) {
                row.push((*column, share * odds / total));
            }
        }
        come.copy_from_slice(&before);
        for (bit, odds) in askers {
            let size = 1 << bit;
            for (come, before) in come
                .chunks_exact_mut(2 * size)
                .zip(before.chunks_exact(2 * size))
            {
                let (_, served) = come.split_at_mut(size);
                for (served, unserved) in served.iter_mut().zip(before) {
                    *served += odds * unserved;
                }
            }
        }
        std::mem::swap(&mut before, &mut come);
    }
    shares
}

/// The states of `one` in which the row with this bit is not served, with those
/// of `other` in which it is and all else is the same.
fn halves<'a>(
    one: &'a mut [f64],
    other: &'a [f64],
    bit: usize,
) -> impl Iterator<Item = (&'a mut [f64], &'a [f64])> {
    let size = 1 << bit;
    let unserved = one.chunks_mut(size).step_by(2);
    unserved.zip(other.chunks(size).skip(1).step_by(2))
}

/// Nearly the same for a crowd: rows and columns are scaled in turns until both
/// add up (Sinkhorn's balance). It errs on the side of doubt.
fn balanced(rows: &[&Row], columns: usize, unseen: f64) -> Vec<Row> {
    const ROUNDS: usize = 40;
    let mut scales = vec![1.0_f64; columns];
    let mut load = vec![1.0; columns];
    for _ in 0..ROUNDS {
        load.fill(1.0);
        for row in rows {
            let share = 1.0 / claim(row, &scales, unseen);
            for (column, odds) in row.iter() {
                if let Some(load) = load.get_mut(*column) {
                    *load += odds * share;
                }
            }
        }
        let mut change = 0.0_f64;
        for (scale, load) in scales.iter_mut().zip(&load) {
            let new = 1.0 / load;
            change = change.max((new / *scale - 1.0).abs());
            *scale = new;
        }
        if change < 1e-3 {
            break;
        }
    }
    let share = |row: &&Row| {
        let sum = claim(row, &scales, unseen);
        let share = |(column, odds): &(usize, f64)| (*column, odds * at(&scales, *column) / sum);
        row.iter().map(share).collect()
    };
    rows.iter().map(share).collect()
}

/// What a row claims of all columns together.
fn claim(row: &Row, scales: &[f64], unseen: f64) -> f64 {
    let claim = |(column, odds): &(usize, f64)| odds * at(scales, *column);
    unseen + row.iter().map(claim).sum::<f64>()
}

fn at(list: &[f64], index: usize) -> f64 {
    list.get(index).copied().unwrap_or(1.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shares(rows: &[Row], idle: &[f64], unseen: f64) -> Vec<Row> {
        super::shares(rows.to_vec(), idle, unseen)
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
