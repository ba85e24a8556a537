//! That the table of docs/kms-wire.md 2.7 has no row without a test.

use super::*;

/// Each row by its first cell, and where it is tested. A connection's end and its
/// time are the server's affair: `tests/server/answers.rs`.
const ROWS: [(&str, fn()); 24] = [
    (
        "EOF inside a PDU, or timeout",
        an_unfinished_pdu_is_waited_for,
    ),
    (
        "frag_length < 16, or above the cap (lab: 5840; vlmcsd: 300)",
        a_length_out_of_bounds_closes_without_a_word,
    ),
    (
        "rpc_vers not 5.0 on bind",
        another_rpc_version_is_refused_by_type,
    ),
    (
        "rpc_vers not 5.0 on request",
        another_rpc_version_is_refused_by_type,
    ),
    ("drep not little-endian", big_endian_is_refused_by_type),
    ("auth_length not 0", authentication_is_refused_by_type),
    (
        "request or alter_context before bind",
        nothing_goes_before_a_bind,
    ),
    ("second bind on the association", a_second_bind_is_refused),
    (
        "n_context_elem 0, or list shorter than announced",
        a_bind_must_offer_what_it_announces,
    ),
    (
        "several transfer syntaxes in one element",
        several_syntaxes_are_walked,
    ),
    (
        "reserved bytes set in the context list",
        reserved_bytes_of_the_list_are_ignored,
    ),
    (
        "interface version: major not 1 or minor > 0; syntax version wrong",
        interfaces_and_syntaxes_of_other_versions_are_rejected_one_by_one,
    ),
    (
        "no element acceptable",
        a_bind_of_which_nothing_is_accepted_stays_open,
    ),
    ("context id not bound", only_bound_contexts_carry_calls),
    (
        "context id bound to BTFN or rejected",
        only_bound_contexts_carry_calls,
    ),
    ("opnum not 0", there_is_one_operation),
    ("OBJECT_UUID flag", an_object_is_skipped),
    (
        "FIRST+LAST not both set",
        fragments_are_put_together_in_order,
    ),
    (
        "stub truncated, length and max count differ, count > remaining bytes",
        a_stub_must_hold_what_it_counts,
    ),
    ("unknown KMS version", unknown_kms_versions_are_invalid_data),
    (
        "n not exactly 252 (V4) or 260 (V5/V6)",
        requests_of_another_length_are_invalid_data,
    ),
    (
        "integrity, padding or inner/outer version check fails",
        foreign_seals_are_invalid_data,
    ),
    (
        "co_cancel, orphaned",
        cancels_and_orphans_are_ignored_and_all_else_closes,
    ),
    (
        "any other PTYPE",
        cancels_and_orphans_are_ignored_and_all_else_closes,
    ),
];

#[test]
fn every_row_of_the_table_has_its_test() {
    let page = include_str!("../../../../docs/kms-wire.md");
    let (_, table) = page.split_once("### 2.7 Strictness table").unwrap();
    let (table, _) = table.split_once("\n## 3").unwrap();
    let cells = |line: &'static str| Some(line.strip_prefix("| ")?.split_once(" |")?.0);
    let rows: Vec<_> = table.lines().filter_map(cells).skip(1).collect();
    assert_eq!(rows, ROWS.map(|(row, _)| row));
}
