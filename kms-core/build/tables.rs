//! From the two catalogue tables to Rust source. Pure, and also compiled into
//! the catalogue's tests.

use std::collections::BTreeMap;
use std::fmt::Write;

const PRODUCT_COLUMNS: &str = "application_id\tapplication\tkms_counted_id\tkms_counted_name\t\
                               activation_id\tproduct\tmin_clients\tprotocol\tchannel\tserver_names";
const GROUP_COLUMNS: &str = "kind\tid\tname\tserver_names";

/// What a name is used for; one name may be several things.
#[derive(Default)]
struct Uses {
    product: bool,
    kms_counted: bool,
    application: bool,
}

/// The source of `PRODUCTS`, `KMS_COUNTED`, `APPLICATIONS` (sorted by id), `NAMES`
/// (sorted by bytes) and `LONGEST_NAME`.
///
/// A row that occurs twice counts once; two different rows for one id, and a
/// value that is not what its column says, are errors that name the row.
pub(super) fn generate(products: &str, groups: &str) -> Result<String, String> {
    let mut names = BTreeMap::<&str, Uses>::new();
    let mut product_rows = BTreeMap::new();
    for row in rows(products, PRODUCT_COLUMNS)? {
        let &[
            application,
            _,
            kms_counted,
            _,
            activation,
            name,
            min_clients,
            protocol,
            channel,
            aliases,
        ] = row.as_slice()
        else {
            return Err(format!("products: not ten columns: {row:?}"));
        };
        let min_clients: u32 = min_clients
            .parse()
            .map_err(|e| format!("products: {row:?}: {e}"))?;
        let protocol = match protocol {
            "4.0" => "V4",
            "5.0" => "V5",
            "6.0" => "V6",
            other => return Err(format!("products: protocol {other:?} in {row:?}")),
        };
        let channel = match channel {
            "volume" => "Volume",
            "retail" => "Retail",
            "preview" => "Preview",
            other => return Err(format!("products: channel {other:?} in {row:?}")),
        };
        let aliases = split(aliases);
        for name in aliases.iter().copied().chain([name]) {
            names.entry(name).or_default().product = true;
        }
        let source = format!(
            "Product {{ application_id: {}, kms_counted_id: {}, activation_id: {}, name: {name:?}, \
             min_clients: {min_clients}, protocol: Protocol::{protocol}, channel: Channel::{channel}, \
             server_names: &{aliases:?} }}",
            uuid(application)?,
            uuid(kms_counted)?,
            uuid(activation)?,
        );
        insert(&mut product_rows, activation, source)?;
    }

    let mut kms_counted_rows = BTreeMap::new();
    let mut application_rows = BTreeMap::new();
    for row in rows(groups, GROUP_COLUMNS)? {
        let &[kind, id, name, aliases] = row.as_slice() else {
            return Err(format!("groups: not four columns: {row:?}"));
        };
        let aliases = split(aliases);
        for name in aliases.iter().copied().chain([name]) {
            let uses = names.entry(name).or_default();
            match kind {
                "kms_counted" => uses.kms_counted = true,
                "application" => uses.application = true,
                other => return Err(format!("groups: kind {other:?} in {row:?}")),
            }
        }
        let source = format!(
            "Group {{ id: {}, name: {name:?}, server_names: &{aliases:?} }}",
            uuid(id)?
        );
        let rows = if kind == "application" {
            &mut application_rows
        } else {
            &mut kms_counted_rows
        };
        insert(rows, id, source)?;
    }

    let longest = names.keys().map(|name| name.len()).max().unwrap_or(0);
    let name_rows = names.iter().map(
        |(
            name,
            Uses {
                product,
                kms_counted,
                application,
            },
        )| {
            format!(
                "KnownName {{ name: {name:?}, product: {product}, kms_counted: {kms_counted}, \
             application: {application} }}"
            )
        },
    );

    let mut out = String::new();
    array(&mut out, "PRODUCTS", "Product", product_rows.into_values());
    array(
        &mut out,
        "KMS_COUNTED",
        "Group",
        kms_counted_rows.into_values(),
    );
    array(
        &mut out,
        "APPLICATIONS",
        "Group",
        application_rows.into_values(),
    );
    array(&mut out, "NAMES", "KnownName", name_rows);
    writeln!(out, "const LONGEST_NAME: usize = {longest};").map_err(|e| e.to_string())?;
    Ok(out)
}

/// The table's rows without its header, which must be `columns`.
fn rows<'a>(table: &'a str, columns: &str) -> Result<Vec<Vec<&'a str>>, String> {
    let mut lines = table.lines();
    if lines.next() != Some(columns) {
        return Err(format!("the table's first line must be {columns:?}"));
    }
    Ok(lines
        .filter(|line| !line.is_empty())
        .map(|line| line.split('\t').collect())
        .collect())
}

fn split(aliases: &str) -> Vec<&str> {
    aliases.split('|').filter(|name| !name.is_empty()).collect()
}

/// Hyphenated lower-case GUIDs sort as text in the order of their bytes, so a
/// map keyed by that text comes out sorted by id.
fn uuid(text: &str) -> Result<String, String> {
    let shape = |(i, c): (usize, char)| match i {
        8 | 13 | 18 | 23 => c == '-',
        _ => c.is_ascii_digit() || ('a'..='f').contains(&c),
    };
    if text.len() == 36 && text.chars().enumerate().all(shape) {
        Ok(format!("Uuid::from_u128(0x{})", text.replace('-', "")))
    } else {
        Err(format!("not a hyphenated lower-case GUID: {text:?}"))
    }
}

fn insert<'a>(
    rows: &mut BTreeMap<&'a str, String>,
    id: &'a str,
    source: String,
) -> Result<(), String> {
    match rows.get(id) {
        Some(known) if *known != source => Err(format!("two different rows for {id}")),
        _ => {
            rows.insert(id, source);
            Ok(())
        }
    }
}

fn array(out: &mut String, name: &str, of: &str, rows: impl Iterator<Item = String>) {
    let rows: Vec<String> = rows.collect();
    let list = rows.join(",\n    ");
    out.push_str(&format!(
        "static {name}: [{of}; {}] = [\n    {list},\n];\n",
        rows.len()
    ));
}
