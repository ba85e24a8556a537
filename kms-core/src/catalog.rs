//! The products that KMS serves: their ids, and what servers call them.
//!
//! The tables are constants made from `data/*.tsv` when the crate is built; a
//! lookup is a binary search and allocates nothing. Names are hints and ids are
//! not: servers of different ages call one product differently, two products
//! have traded names, and a few names belong to several ids.

use std::fmt;

use uuid::Uuid;

include!(concat!(env!("OUT_DIR"), "/catalog.rs"));

/// One edition, as a client asks for it.
#[derive(Debug, PartialEq, Eq)]
pub struct Product {
    /// The family it belongs to; see [`application`].
    pub application_id: Uuid,
    /// The class a host grants or refuses by; see [`kms_counted`].
    pub kms_counted_id: Uuid,
    /// What names this edition and no other (also called SKU id).
    pub activation_id: Uuid,
    /// The catalogue's name for it.
    pub name: &'static str,
    /// How many clients a host must have seen before this product activates.
    pub min_clients: u32,
    /// The newest protocol its clients speak.
    pub protocol: Protocol,
    /// How it is licensed.
    pub channel: Channel,
    /// What servers call it where they do not use `name`; often empty.
    pub server_names: &'static [&'static str],
}

/// An application or a KMS-counted class: what several products have in common.
#[derive(Debug, PartialEq, Eq)]
pub struct Group {
    /// What names it.
    pub id: Uuid,
    /// The catalogue's name for it.
    pub name: &'static str,
    /// What servers call it where they do not use `name`; often empty.
    pub server_names: &'static [&'static str],
}

/// A version of the KMS protocol; `V6` shows as `6.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// 4.0: Windows Vista to 7, Office 2010.
    V4,
    /// 5.0: Windows 8, Office 2013.
    V5,
    /// 6.0: Windows 8.1 and everything after it.
    V6,
}

/// How a product is licensed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Channel {
    /// Volume licence: what KMS is for.
    Volume,
    /// Sold one by one; strict hosts refuse it.
    Retail,
    /// A beta; strict hosts refuse it.
    Preview,
}

/// A name that the catalogue has or a server uses, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownName {
    /// The name, fit to be a metric's label.
    pub name: &'static str,
    /// One or more products are called so.
    pub product: bool,
    /// A KMS-counted class is called so.
    pub kms_counted: bool,
    /// An application is called so.
    pub application: bool,
}

/// Every product, sorted by activation id.
#[must_use]
pub fn products() -> &'static [Product] {
    &PRODUCTS
}

/// The product with this activation id.
///
/// ```
/// use kms_core::catalog;
///
/// let id = "73111121-5638-40f6-bc11-f1d7b0d64300".parse()?;
/// let product = catalog::product(id).expect("Windows 10 is in the catalogue");
/// assert_eq!(product.name, "Windows 10/11 Enterprise");
/// assert_eq!(product.min_clients, 25);
/// # Ok::<(), uuid::Error>(())
/// ```
#[must_use]
pub fn product(activation_id: Uuid) -> Option<&'static Product> {
    let at = PRODUCTS
        .binary_search_by_key(&activation_id, |product| product.activation_id)
        .ok()?;
    PRODUCTS.get(at)
}

/// The class with this KMS-counted id.
#[must_use]
pub fn kms_counted(id: Uuid) -> Option<&'static Group> {
    group(&KMS_COUNTED, id)
}

/// The application with this id.
#[must_use]
pub fn application(id: Uuid) -> Option<&'static Group> {
    group(&APPLICATIONS, id)
}

fn group(groups: &'static [Group], id: Uuid) -> Option<&'static Group> {
    groups.get(groups.binary_search_by_key(&id, |group| group.id).ok()?)
}

/// What is known by exactly this name: a product, a KMS-counted class or an
/// application, in the catalogue's words or a server's.
#[must_use]
pub fn known_name(name: &[u8]) -> Option<&'static KnownName> {
    let at = NAMES
        .binary_search_by(|known| known.name.as_bytes().cmp(name))
        .ok()?;
    NAMES.get(at)
}

/// Where to split `NAME for PRODUCT`, both of which may hold ` for `: the offset
/// of the ` for ` before the longest known product text, or `None` if none is.
///
/// Known are the names of [`known_name`], GUIDs with hyphens, and `Unknown`.
/// Only as much of the end is looked at as a product text can fill, so the cost
/// does not grow with the text.
///
/// ```
/// use kms_core::catalog::longest_known_suffix;
///
/// assert_eq!(longest_known_suffix(b"PC1 for Office Skype for Business 2019"), Some(3));
/// let forged = b"a for Windows 10 Enterprise for Office Standard 2010";
/// assert_eq!(longest_known_suffix(forged), Some(27));
/// assert_eq!(longest_known_suffix(b"PC1 for something new"), None);
/// ```
#[must_use]
pub fn longest_known_suffix(text: &[u8]) -> Option<usize> {
    const FOR: &[u8] = b" for ";
    const {
        assert!(
            LONGEST_NAME >= GUID_LEN,
            "the part looked at must hold a GUID"
        )
    };
    let start = text.len().saturating_sub(LONGEST_NAME + FOR.len());
    let is_split = |&at: &usize| {
        let rest = text.get(at..).and_then(|rest| rest.strip_prefix(FOR));
        rest.is_some_and(is_product_text)
    };
    // The longest suffix is the one that begins first.
    (start..text.len()).find(is_split)
}

const GUID_LEN: usize = 36;

fn is_product_text(text: &[u8]) -> bool {
    known_name(text).is_some()
        || text == b"Unknown"
        // Of the forms the parser takes, only the hyphenated one has this length.
        || text.len() == GUID_LEN && Uuid::try_parse_ascii(text).is_ok()
}

/// The product label for metrics: one of a closed set, whatever a client or a
/// log line says.
///
/// With an id: the given name if the product with that id is called so, in the
/// catalogue's words or a server's; without a name, the catalogue's. Without an
/// id (quiet lines): the given name if anything is called so. Else `None`.
///
/// ```
/// use kms_core::catalog::label;
///
/// let id = "73111121-5638-40f6-bc11-f1d7b0d64300".parse().ok();
/// assert_eq!(label(Some("Windows 10 Enterprise"), id), Some("Windows 10 Enterprise"));
/// assert_eq!(label(None, id), Some("Windows 10/11 Enterprise"));
/// assert_eq!(label(Some("Office Standard 2010"), id), None);
/// assert_eq!(label(Some("Office Standard 2010"), None), Some("Office Standard 2010"));
/// ```
#[must_use]
pub fn label(product_name: Option<&str>, activation_id: Option<Uuid>) -> Option<&'static str> {
    match (product_name, activation_id) {
        (Some(name), Some(id)) => product(id)?.names().find(|known| *known == name),
        (None, Some(id)) => product(id).map(|product| product.name),
        (Some(name), None) => known_name(name.as_bytes()).map(|known| known.name),
        (None, None) => None,
    }
}

impl Product {
    /// Everything it is called: the catalogue's name first, then servers' names.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.name).chain(self.server_names.iter().copied())
    }
}

impl Group {
    /// Everything it is called: the catalogue's name first, then servers' names.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.name).chain(self.server_names.iter().copied())
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V4 => "4.0",
            Self::V5 => "5.0",
            Self::V6 => "6.0",
        })
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Volume => "volume",
            Self::Retail => "retail",
            Self::Preview => "preview",
        })
    }
}

#[cfg(test)]
#[path = "../build/tables.rs"]
mod tables;

#[cfg(test)]
mod tests;
