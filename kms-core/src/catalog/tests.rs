//! The built tables against every row of the data they were built from.

use std::collections::BTreeSet;

use proptest::prelude::*;
use uuid::Uuid;

use super::{
    APPLICATIONS, Group, KMS_COUNTED, KnownName, LONGEST_NAME, NAMES, PRODUCTS, application,
    kms_counted, known_name, label, longest_known_suffix, product, tables,
};

const PRODUCTS_TSV: &str = include_str!("../../data/products.tsv");
const GROUPS_TSV: &str = include_str!("../../data/groups.tsv");

fn rows(table: &'static str) -> impl Iterator<Item = Vec<&'static str>> {
    table.lines().skip(1).map(|line| line.split('\t').collect())
}

fn id(text: &str) -> Uuid {
    text.parse().unwrap()
}

fn names<'a>(name: &'a str, server_names: &'a str) -> impl Iterator<Item = &'a str> {
    std::iter::once(name).chain(server_names.split('|').filter(|name| !name.is_empty()))
}

#[test]
fn every_product_is_found_with_all_its_columns() {
    let mut seen = BTreeSet::new();
    for row in rows(PRODUCTS_TSV) {
        let [
            app,
            app_name,
            counted,
            counted_name,
            activation,
            name,
            min,
            protocol,
            channel,
            aliases,
        ] = row[..]
        else {
            panic!("ten columns: {row:?}");
        };
        let found = product(id(activation)).expect(name);
        assert_eq!(found.activation_id, id(activation));
        assert_eq!(found.application_id, id(app));
        assert_eq!(found.kms_counted_id, id(counted));
        assert_eq!(found.name, name);
        assert_eq!(found.min_clients.to_string(), min);
        assert_eq!(found.protocol.to_string(), protocol);
        assert_eq!(found.channel.to_string(), channel);
        assert!(found.names().eq(names(name, aliases)), "{name}");
        assert_eq!(application(id(app)).map(|group| group.name), Some(app_name));
        assert_eq!(
            kms_counted(id(counted)).map(|group| group.name),
            Some(counted_name)
        );
        seen.insert(activation);
    }
    assert_eq!(PRODUCTS.len(), seen.len());
}

#[test]
fn every_group_is_found_with_all_its_columns() {
    let mut seen = BTreeSet::new();
    for row in rows(GROUPS_TSV) {
        let [kind, group_id, name, aliases] = row[..] else {
            panic!("four columns: {row:?}");
        };
        let find: fn(Uuid) -> Option<&'static Group> = match kind {
            "application" => application,
            "kms_counted" => kms_counted,
            other => panic!("kind {other}"),
        };
        let found = find(id(group_id)).expect(name);
        assert_eq!((found.id, found.name), (id(group_id), name));
        assert!(found.names().eq(names(name, aliases)), "{name}");
        seen.insert((kind, group_id));
    }
    assert_eq!(KMS_COUNTED.len() + APPLICATIONS.len(), seen.len());
}

#[test]
fn every_name_is_known_for_what_it_is() {
    let mut seen = BTreeSet::new();
    let mut check = |name: &'static str, is: fn(&KnownName) -> bool| {
        let known = known_name(name.as_bytes()).expect(name);
        assert_eq!(known.name, name);
        assert!(is(known), "{known:?}");
        assert_eq!(label(Some(name), None), Some(name));
        assert_eq!(
            longest_known_suffix(format!("PC1 for {name}").as_bytes()),
            Some(3),
            "{name}"
        );
        assert!(name.len() <= LONGEST_NAME);
        seen.insert(name);
    };
    for row in rows(PRODUCTS_TSV) {
        names(row[5], row[9]).for_each(|name| check(name, |known| known.product));
    }
    for row in rows(GROUPS_TSV) {
        names(row[2], row[3]).for_each(|name| match row[0] {
            "application" => check(name, |known| known.application),
            _ => check(name, |known| known.kms_counted),
        });
    }
    assert_eq!(NAMES.len(), seen.len());
    assert!(seen.contains("Office 2010"));
    let both = known_name(b"Office 2010").unwrap();
    assert!(both.application && both.kms_counted && !both.product);
}

#[test]
fn tables_are_sorted_without_repeats() {
    assert!(PRODUCTS.is_sorted_by(|a, b| a.activation_id < b.activation_id));
    assert!(KMS_COUNTED.is_sorted_by(|a, b| a.id < b.id));
    assert!(APPLICATIONS.is_sorted_by(|a, b| a.id < b.id));
    assert!(NAMES.is_sorted_by(|a, b| a.name.as_bytes() < b.name.as_bytes()));
}

#[test]
fn what_is_not_in_the_catalogue_is_not_found() {
    assert_eq!(product(Uuid::nil()), None);
    assert_eq!(product(Uuid::max()), None);
    assert_eq!(kms_counted(Uuid::nil()), None);
    assert_eq!(application(Uuid::nil()), None);
    for name in [
        "",
        "Unknown",
        "windows",
        "Windows ",
        "Windows 10 Enterpris",
        "\u{FFFD}",
    ] {
        assert_eq!(known_name(name.as_bytes()), None, "{name:?}");
    }
}

#[test]
fn a_label_must_belong_to_its_id() {
    // These two have traded names between catalogue and servers.
    let azure = Some(id("3dbf341b-5f6c-4fa7-b936-699dce9e263f"));
    assert_eq!(
        label(Some("Windows Server 2016 Azure Core"), azure),
        Some("Windows Server 2016 Azure Core")
    );
    assert_eq!(
        label(Some("Windows Server 2016 Cloud Storage"), azure),
        Some("Windows Server 2016 Cloud Storage")
    );
    assert_eq!(label(None, azure), Some("Windows Server 2016 Azure Core"));
    assert_eq!(label(Some("Windows"), azure), None);
    assert_eq!(label(Some("<!channel>"), azure), None);
    assert_eq!(
        label(Some("Windows Server 2016 Azure Core"), Some(Uuid::nil())),
        None
    );
    assert_eq!(label(Some("<!channel>"), None), None);
    assert_eq!(label(None, None), None);
}

#[test]
fn the_longest_known_text_ends_a_quiet_line() {
    let guid = "73111121-5638-40f6-bc11-f1d7b0d64300";
    let cases = [
        ("PC1 for Windows 10 Enterprise", "PC1"),
        ("PC1 for Office Skype for Business 2019", "PC1"),
        ("PC1 for Windows 10 Enterprise for Virtual Desktops", "PC1"),
        (
            "a for Windows 10 Enterprise for Office Standard 2010",
            "a for Windows 10 Enterprise",
        ),
        ("a for Office Skype for Business 2019", "a"),
        (
            "Office Skype for Business 2019 for Windows",
            "Office Skype for Business 2019",
        ),
        (
            "a for Office Skype for Business 1999 for Unknown",
            "a for Office Skype for Business 1999",
        ),
        ("a for for for Windows", "a for for"),
        (" for Windows", ""),
        (
            "x\nKMS v6.0 request from EVIL for Windows 7 for Office2013+",
            "x\nKMS v6.0 request from EVIL for Windows 7",
        ),
        ("PC1 for Unknown", "PC1"),
    ];
    for (line, name) in cases {
        assert_eq!(
            longest_known_suffix(line.as_bytes()),
            Some(name.len()),
            "{line:?}"
        );
    }
    assert_eq!(
        longest_known_suffix(format!("PC1 for {guid}").as_bytes()),
        Some(3)
    );
    assert_eq!(
        longest_known_suffix(format!("PC1 for {guid}0").as_bytes()),
        None
    );
    assert_eq!(
        longest_known_suffix(format!("PC1 for {}", guid.replace('-', "")).as_bytes()),
        None
    );
    for line in [
        "",
        " for ",
        "PC1",
        "PC1 for ",
        "PC1 for Windows ",
        "PC1 forWindows",
        "for Windows",
        "PC1 for unknown",
    ] {
        assert_eq!(longest_known_suffix(line.as_bytes()), None, "{line:?}");
    }
}

proptest! {
    /// Against the rule as it is written, without the bound on what is looked at.
    #[test]
    fn suffix_search_agrees_with_the_plain_rule(
        pieces in prop::collection::vec(
            prop_oneof![
                Just(" for ".to_owned()),
                prop::sample::select(&NAMES[..]).prop_map(|known| known.name.to_owned()),
                Just("Unknown".to_owned()),
                "[a-z ]{0,60}",
            ],
            0..8,
        )
    ) {
        let text = pieces.concat();
        let plain = text.match_indices(" for ").map(|(at, _)| at).find(|at| {
            let rest = &text[at + 5..];
            rest == "Unknown" || NAMES.iter().any(|known| known.name == rest)
        });
        prop_assert_eq!(longest_known_suffix(text.as_bytes()), plain);
    }

    #[test]
    fn a_split_is_at_a_for(text in prop::collection::vec(any::<u8>(), 0..120)) {
        if let Some(at) = longest_known_suffix(&text) {
            prop_assert_eq!(&text[at..at + 5], b" for ");
        }
    }
}

mod generation {
    use super::{GROUPS_TSV, PRODUCTS_TSV, tables::generate};

    fn with(table: &str, row: &str) -> String {
        format!("{table}{row}\n")
    }

    #[test]
    fn a_repeated_row_counts_once() {
        let product = PRODUCTS_TSV.lines().nth(1).unwrap();
        let group = GROUPS_TSV.lines().nth(1).unwrap();
        let once = generate(PRODUCTS_TSV, GROUPS_TSV).unwrap();
        let twice = generate(&with(PRODUCTS_TSV, product), &with(GROUPS_TSV, group)).unwrap();
        assert_eq!(once, twice);
    }

    #[test]
    fn rows_that_cannot_be_are_refused() {
        let group = |row: &str| generate(PRODUCTS_TSV, &with(GROUPS_TSV, row)).unwrap_err();
        let product = |row: &str| generate(&with(PRODUCTS_TSV, row), GROUPS_TSV).unwrap_err();
        let id = "55c92734-d682-4d71-983e-d6ec3f16059f";

        assert_eq!(
            group(&format!("application\t{id}\tDoors\t")),
            format!("two different rows for {id}")
        );
        assert!(group(&format!("species\t{id}\tDoors\t")).contains("species"));
        assert!(group("application\t55c92734\tDoors\t").contains("GUID"));
        assert!(group("application\tonly").contains("four columns"));
        assert!(product("only").contains("ten columns"));
        let row = |min, protocol, channel| {
            format!("{id}\ta\t{id}\tb\t{id}\tc\t{min}\t{protocol}\t{channel}\t")
        };
        assert!(product(&row("many", "6.0", "volume")).contains("invalid digit"));
        assert!(product(&row("5", "7.0", "volume")).contains("7.0"));
        assert!(product(&row("5", "6.0", "theft")).contains("theft"));
        assert!(
            generate(GROUPS_TSV, GROUPS_TSV)
                .unwrap_err()
                .contains("first line")
        );
    }
}
