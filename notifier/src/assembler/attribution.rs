//! Who asked: shares of belief, from what the log says for and against it.
//!
//! A block names no connection. What is left after the facts (open before it
//! began, not closed before it ended) is weighed, and the weights of all
//! requests that wait are balanced against each other: one connection does not
//! speak for two machines at once. Distances are counted in *ticks* (accepted
//! and closed lines and markers), since a busy server writes many lines within
//! one stamp. The curves were fitted to the recordings of four server versions;
//! docs/decisions.md says how.

use jiff::SignedDuration;
/// A share from which one address is called the one. On the recordings shares
/// are honest: of those above 0.9 nine in ten and more were right.
pub(super) const SURE: f64 = 0.97;

/// A request that no connection in the table may have made, for a log that was
/// joined late and for one that was read from its start.
pub(super) const UNSEEN_LATE: f64 = 0.02;
pub(super) const UNSEEN: f64 = 1e-6;

/// How likely a connection asks for the first time, so many ticks after it was
/// accepted: mostly at once, in a crowd some time later.
pub(super) fn asks_first(gap: u64, age: Option<SignedDuration>) -> f64 {
    let at_once = if gap <= 1 { 0.25 } else { 0.0 };
    let in_a_crowd = 0.11 * power(0.8, gap.saturating_sub(1));
    // Clients ask within milliseconds. Who has said nothing for seconds is a
    // monitor or a scanner; stamps a second apart may be neighbours.
    let idle = match age.map(|age| age.as_secs()) {
        Some(2..) => 0.01,
        Some(1) => 0.25,
        _ => 1.0,
    };
    (at_once + in_a_crowd + 5e-4) * idle
}

/// How likely a connection that spoke for this machine asks again, one that
/// spoke for another machine asks for this one, and one that spoke for a machine
/// that the log does not name.
pub(super) const SAME_MACHINE: f64 = 0.3;
pub(super) const OTHER_MACHINE: f64 = 1e-6;
pub(super) const SOME_MACHINE: f64 = 0.3;
/// A connection from before the server's last restart.
pub(super) const STALE: f64 = 0.01;
/// The address that this machine was last seen at. Not enough to decide alone:
/// it is the client's word that it is the same machine.
pub(super) const KNOWN_ADDRESS: f64 = 30.0;

/// How likely an asker closes so many ticks after its answer; `open` is that it
/// has not done so yet. One in two holds on.
pub(super) fn closes_after_answer(gap: u64, open: bool) -> f64 {
    if open {
        0.5 + 0.5 * power(0.72, gap)
    } else {
        let at_once = if gap <= 1 { 0.12 } else { 0.0 };
        at_once + 0.005 * power(0.95, gap) + 5e-4
    }
}

/// The same for a connection that asks nothing, from its accepted line on.
pub(super) fn closes_unasked(gap: u64, open: bool) -> f64 {
    if open {
        0.02 * power(0.2, gap) + 0.09 * power(0.97, gap) + 0.01
    } else {
        0.2 * power(0.2, gap) + 0.07 * power(0.97, gap) + 1e-3
    }
}

/// How much more often an address only probed than asked, in what was read so
/// far. Bounded so that it never decides by itself.
pub(super) fn prober(probes: u32, requests: u32) -> f64 {
    let odds = f64::from(probes.saturating_add(1)) / f64::from(requests.saturating_add(1));
    odds.clamp(1.0 / 6.0, 6.0)
}

fn power(base: f64, exponent: u64) -> f64 {
    base.powi(i32::try_from(exponent.min(2000)).unwrap_or(2000))
}

/// One request (or several of one machine) that waits, and what speaks for each
/// connection: (column, weight).
pub(super) type Row = Vec<(usize, f64)>;

/// Shares of belief, in the shape of `rows`; what is missing to 1 is `unseen`.
///
/// `idle` has, for every column, the weight of its asking nothing at all. Each
/// row belongs to one column or to none that is seen, each column to one row or
/// to none: the balance (Sinkhorn's) gives each pair the share it has in all
/// such assignments, nearly, in a few rounds.
pub(super) fn shares(rows: &[Row], idle: &[f64], unseen: f64) -> Vec<Row> {
    const ROUNDS: usize = 40;
    let mut columns = vec![1.0_f64; idle.len()];
    let mut scales = vec![1.0_f64; rows.len()];
    for _ in 0..ROUNDS {
        let mut load = idle.to_vec();
        for (row, scale) in rows.iter().zip(&mut scales) {
            let weigh = |(column, weight): &(usize, f64)| weight * get(&columns, *column);
            *scale = 1.0 / (row.iter().map(weigh).sum::<f64>() + unseen);
            for (column, weight) in row {
                if let Some(load) = load.get_mut(*column) {
                    *load += weight * *scale;
                }
            }
        }
        let mut change = 0.0_f64;
        for (column, load) in columns.iter_mut().zip(load) {
            let next = 1.0 / load.max(f64::MIN_POSITIVE);
            change = change.max((next / *column - 1.0).abs());
            *column = next;
        }
        if change < 1e-3 {
            break;
        }
    }
    let share = |row: &Row| {
        let weights = row
            .iter()
            .map(|(column, weight)| (*column, weight * get(&columns, *column)));
        let weights: Row = weights.collect();
        let sum = weights.iter().map(|(_, weight)| weight).sum::<f64>() + unseen;
        weights
            .into_iter()
            .map(|(column, weight)| (column, weight / sum))
            .collect()
    };
    rows.iter().map(share).collect()
}

fn get(columns: &[f64], at: usize) -> f64 {
    columns.get(at).copied().unwrap_or(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_goes_by_the_odds() {
        let shares = shares(&[vec![(0, 0.3), (1, 0.1)]], &[1.0, 1.0], 0.0);
        assert!((shares[0][0].1 - 0.75).abs() < 0.01, "{shares:?}");
    }

    #[test]
    fn a_connection_taken_by_one_request_is_free_for_no_other() {
        // The second request can only be 1's, so the first is 0's, although 1 would
        // be the better guess.
        let rows = [vec![(0, 0.1), (1, 0.9)], vec![(1, 0.5)]];
        let shares = shares(&rows, &[0.1, 0.1], 1e-6);
        assert!(shares[0][0].1 > 0.9, "{shares:?}");
        assert!(shares[1][0].1 > 0.99, "{shares:?}");
    }

    #[test]
    fn a_request_without_any_connection_has_no_share() {
        assert_eq!(shares(&[vec![]], &[], UNSEEN), vec![Row::new()]);
    }

    #[test]
    fn an_address_that_only_probes_never_decides() {
        for odds in [prober(u32::MAX, 0), 1.0 / prober(0, u32::MAX)] {
            assert!(odds / (1.0 + odds) < SURE, "{odds}");
        }
    }
}
