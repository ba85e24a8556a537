//! Values that a server writes again and again, parsed once.
//!
//! A log names few products, classes, applications and host ids, and names them in
//! every request. What their lines say is remembered by the bytes of the value, so
//! that a value seen before costs one comparison. Nothing depends on what is
//! remembered: a value that is not is parsed.

use kms_core::catalog::{self, Product};
use kms_core::text::clean;
use uuid::Uuid;

use crate::event::Text;
use crate::line::{Label, guid_and_name};

/// Values remembered at most; a newer one takes an older one's place.
const SLOTS: usize = 256;

/// A longer value is parsed each time. The longest that a server writes has a GUID
/// and a name of at most 64 characters.
const MAX_VALUE: usize = 128;

/// Characters kept of a name that comes from the server's data file.
const MAX_NAME: usize = 128;

/// What a value says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) id: Option<Uuid>,
    /// Cleaned; absent where the server did not know one.
    pub(super) name: Option<Text>,
    /// What the catalogue knows by an activation id.
    pub(super) edition: Option<&'static Product>,
}

#[derive(Clone, Debug)]
struct Slot {
    label: Label,
    bytes: Box<[u8]>,
    value: Value,
}

/// The values remembered.
#[derive(Debug, Default)]
pub(super) struct Values {
    slots: Vec<Option<Slot>>,
}

impl Values {
    /// `GUID (NAME)`, or an ePID, which is all name.
    pub(super) fn get(&mut self, label: Label, bytes: &[u8]) -> Value {
        if bytes.len() > MAX_VALUE {
            return parse(label, bytes);
        }
        if self.slots.is_empty() {
            self.slots.resize(SLOTS, None);
        }
        let Some(slot) = self.slots.get_mut(slot_of(label, bytes)) else {
            return parse(label, bytes);
        };
        match slot {
            Some(known) if known.label == label && *known.bytes == *bytes => known.value.clone(),
            _ => {
                let value = parse(label, bytes);
                *slot = Some(Slot {
                    label,
                    bytes: bytes.into(),
                    value: value.clone(),
                });
                value
            }
        }
    }
}

/// Spreads what a server writes; values that a client would have share a slot only
/// push each other out.
fn slot_of(label: Label, bytes: &[u8]) -> usize {
    let word = |chunk: Option<&[u8; 8]>| chunk.map_or(0, |chunk| u64::from_le_bytes(*chunk));
    // Ids differ in their first bytes, host ids in their last ones.
    let mixed = word(bytes.first_chunk()) ^ word(bytes.last_chunk()).rotate_left(29);
    let hash =
        (mixed ^ bytes.len() as u64 ^ (label as u64) << 56).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    usize::try_from(hash >> 56).unwrap_or(0)
}

fn parse(label: Label, bytes: &[u8]) -> Value {
    if label == Label::Epid {
        return Value {
            name: Some(clean(bytes, MAX_NAME).into()),
            ..Value::default()
        };
    }
    let (id, name) = guid_and_name(bytes);
    let (id, name) = (
        guid(id),
        name.filter(|name| !name.is_empty() && *name != b"Unknown"),
    );
    Value {
        id,
        name: name.map(|name| clean(name, MAX_NAME).into()),
        edition: id
            .filter(|_| label == Label::Activation)
            .and_then(catalog::product),
    }
}

/// The GUID at the beginning of a value.
pub(super) fn guid(value: &[u8]) -> Option<Uuid> {
    Uuid::try_parse_ascii(value.get(..36)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_what_is_parsed() {
        let mut values = Values::default();
        let guid = "55c92734-d682-4d71-983e-d6ec3f16059f";
        for round in 0..3 {
            for at in 0..2000 {
                for text in [
                    format!("{guid} (Windows {at})"),
                    format!("{guid} (Unknown)"),
                    format!("{at}"),
                    format!("{guid} ({}{at})", "x".repeat(200)),
                ] {
                    for label in [Label::Application, Label::Activation, Label::Epid] {
                        assert_eq!(
                            values.get(label, text.as_bytes()),
                            parse(label, text.as_bytes()),
                            "{text} in round {round}"
                        );
                    }
                }
            }
        }
        assert_eq!(values.slots.len(), SLOTS);
    }

    #[test]
    fn a_name_that_the_server_did_not_know_is_none() {
        let value = parse(
            Label::Application,
            b"55c92734-d682-4d71-983e-d6ec3f16059f (Unknown)",
        );
        assert!(value.id.is_some() && value.name.is_none());
        assert_eq!(parse(Label::Application, b"no id"), Value::default());
    }
}
