//! Showing text that a client wrote without letting it act: on a terminal, in a
//! message, or on the eye of a reader.

use std::borrow::Cow;

/// What stands for every character that is not shown, and for bytes that are
/// not UTF-8.
pub const MARK: char = char::REPLACEMENT_CHARACTER;

/// The text in `bytes`, at most `max_chars` characters of it, with a [`MARK`]
/// for each character that [`is_hidden`] and for each run of bytes that is not
/// UTF-8 (as in [`String::from_utf8_lossy`]).
///
/// One mark for one character: a reader sees that something was there, and
/// where. Line feeds are hidden characters too, so the result is one line.
/// Cleaning what is clean changes nothing. Borrows unless something had to be
/// replaced.
///
/// ```
/// use kms_core::text::clean;
///
/// assert_eq!(clean(b"PC1.example.org", 64), "PC1.example.org");
/// assert_eq!(clean("invoice\u{202E}fdp.exe".as_bytes(), 64), "invoice\u{FFFD}fdp.exe");
/// assert_eq!(clean(b"\x1b[31mred\xff\nIPv4", 64), "\u{FFFD}[31mred\u{FFFD}\u{FFFD}IPv4");
/// assert_eq!(clean("Größe".as_bytes(), 4), "Größ");
/// ```
#[must_use]
pub fn clean(bytes: &[u8], max_chars: usize) -> Cow<'_, str> {
    // Nearly every name: ASCII, where bytes are characters.
    let head = bytes.get(..max_chars).unwrap_or(bytes);
    // All of it at once and not up to the first: that is what processors do 16 at a time.
    let other = |other, byte: &u8| other | !matches!(byte, b' '..=b'~');
    if !head.iter().fold(false, other)
        && let Ok(text) = str::from_utf8(head)
    {
        return Cow::Borrowed(text);
    }
    if let Ok(text) = str::from_utf8(bytes) {
        let text = first_chars(text, max_chars);
        if !text.contains(is_hidden) {
            return Cow::Borrowed(text);
        }
    }
    let decoded = bytes.utf8_chunks().flat_map(|chunk| {
        let broken = (!chunk.invalid().is_empty()).then_some(MARK);
        chunk.valid().chars().chain(broken)
    });
    let shown = decoded.map(|c| if is_hidden(c) { MARK } else { c });
    Cow::Owned(shown.take(max_chars).collect())
}

/// [`clean`] of UTF-16, which need not be right. What is plain ASCII, as nearly
/// every name is, is put into `room` and takes no allocation.
pub(crate) fn clean_utf16<'a, const N: usize>(
    units: &[u16],
    room: &'a mut [u8; N],
) -> Cow<'a, str> {
    let plain = |unit: &u16| {
        u8::try_from(*unit)
            .ok()
            .filter(|byte| matches!(byte, b' '..=b'~'))
    };
    if units.len() <= N && units.iter().all(|unit| plain(unit).is_some()) {
        for (to, byte) in room.iter_mut().zip(units.iter().filter_map(plain)) {
            *to = byte;
        }
        let text = room
            .get(..units.len())
            .and_then(|text| str::from_utf8(text).ok());
        return Cow::Borrowed(text.unwrap_or_default());
    }
    let lossy = String::from_utf16_lossy(units);
    Cow::Owned(clean(lossy.as_bytes(), N).into_owned())
}

/// Whether a character shows nothing by itself or changes how others are shown:
/// controls (C0, DEL, C1), Unicode's line separators, bidirectional controls,
/// everything with the property `Default_Ignorable_Code_Point` (zero-width and
/// other invisible characters, variation selectors, tags), interlinear
/// annotation, and noncharacters.
///
/// The ranges are closed: Unicode reserves them whole, so newer versions add to
/// none of them. Blanks that take up room (U+00A0, U+3000) are not hidden.
#[must_use]
pub fn is_hidden(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    c.is_control()
        || matches!(c,
            '\u{00AD}'                      // soft hyphen
            | '\u{034F}'                    // combining grapheme joiner
            | '\u{061C}'                    // Arabic letter mark
            | '\u{115F}'..='\u{1160}'       // Hangul fillers, as U+3164 and U+FFA0
            | '\u{17B4}'..='\u{17B5}'       // Khmer inherent vowels
            | '\u{180B}'..='\u{180F}'       // Mongolian selectors
            | '\u{200B}'..='\u{200F}'       // zero width, left-to-right and right-to-left marks
            | '\u{2028}'..='\u{202E}'       // line and paragraph separators, embeddings, overrides
            | '\u{2060}'..='\u{206F}'       // word joiner, invisible operators, isolates
            | '\u{3164}'
            | '\u{FDD0}'..='\u{FDEF}'       // noncharacters
            | '\u{FE00}'..='\u{FE0F}'       // variation selectors
            | '\u{FEFF}'                    // byte order mark
            | '\u{FFA0}'
            | '\u{FFF0}'..='\u{FFFB}'       // reserved; interlinear annotation
            | '\u{1BCA0}'..='\u{1BCA3}'     // shorthand format controls
            | '\u{1D173}'..='\u{1D17A}'     // musical format controls
            | '\u{E0000}'..='\u{E0FFF}'     // tags, more variation selectors
        )
        // The last two code points of every plane are noncharacters.
        || u32::from(c) & 0xFFFE == 0xFFFE
}

fn first_chars(text: &str, max_chars: usize) -> &str {
    let end = text.char_indices().nth(max_chars).map(|(at, _)| at);
    end.and_then(|end| text.get(..end)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use proptest::prelude::*;

    use super::{MARK, clean, clean_utf16, is_hidden};

    #[test]
    fn what_is_clean_is_borrowed() {
        for text in ["", "PC1", "Größe-ПК", "a\u{FFFD}b", "日本\u{3000}語", "𝕏𝕏"] {
            let cleaned = clean(text.as_bytes(), 64);
            assert!(
                matches!(cleaned, Cow::Borrowed(same) if same == text),
                "{text}"
            );
        }
    }

    #[test]
    fn each_hidden_character_becomes_one_mark() {
        let hidden = [
            '\0',
            '\t',
            '\n',
            '\r',
            '\u{1b}',
            '\u{7f}',
            '\u{80}',
            '\u{9b}',
            '\u{AD}',
            '\u{34F}',
            '\u{61C}',
            '\u{115F}',
            '\u{180E}',
            '\u{200B}',
            '\u{200D}',
            '\u{200E}',
            '\u{200F}',
            '\u{2028}',
            '\u{2029}',
            '\u{202A}',
            '\u{202E}',
            '\u{2060}',
            '\u{2066}',
            '\u{2069}',
            '\u{3164}',
            '\u{FDD0}',
            '\u{FE0F}',
            '\u{FEFF}',
            '\u{FFF9}',
            '\u{FFFB}',
            '\u{FFFE}',
            '\u{FFFF}',
            '\u{1FFFE}',
            '\u{E0001}',
            '\u{E007F}',
            '\u{E0100}',
            '\u{10FFFF}',
        ];
        for c in hidden {
            assert_eq!(
                clean(format!("a{c}{c}b").as_bytes(), 64),
                "a\u{FFFD}\u{FFFD}b",
                "U+{:04X}",
                u32::from(c)
            );
        }
    }

    #[test]
    fn neighbours_of_the_ranges_are_shown() {
        for c in [
            ' ',
            '~',
            '\u{A0}',
            '\u{AE}',
            '\u{2010}',
            '\u{2027}',
            '\u{202F}',
            '\u{2070}',
            '\u{FFFC}',
            '\u{FFFD}',
            '\u{F0000}',
        ] {
            assert!(!is_hidden(c), "U+{:04X}", u32::from(c));
        }
    }

    #[test]
    fn the_bound_is_in_characters_and_cuts_between_them() {
        assert_eq!(clean("ééé".as_bytes(), 2), "éé");
        assert_eq!(clean("é\u{202E}é".as_bytes(), 2), "é\u{FFFD}");
        assert_eq!(clean("abcé".as_bytes(), 3), "abc");
        assert_eq!(clean(b"abc\xff\xfe", 4), "abc\u{FFFD}");
        assert_eq!(clean(b"abc", 0), "");
        assert_eq!(clean("\u{202E}".as_bytes(), 0), "");
    }

    #[test]
    fn broken_utf8_is_marked_as_the_standard_library_does() {
        let bytes = b"a\xf0\x9d\x95b\xed\xa0\x80\xc0\xafc\xe2\x80";
        assert_eq!(clean(bytes, 64), String::from_utf8_lossy(bytes));
    }

    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            any::<char>().prop_map(|c| c.to_string().into_bytes()),
            "[ -~]{0,8}".prop_map(String::into_bytes),
            "[\u{0}-\u{1f}\u{7f}-\u{ad}\u{200b}-\u{206f}\u{fff0}-\u{fffd}]"
                .prop_map(String::into_bytes),
            prop::collection::vec(any::<u8>(), 0..4),
        ];
        prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn nothing_hidden_comes_through_and_the_bound_holds(bytes in hostile(), max in 0usize..80) {
            let cleaned = clean(&bytes, max);
            prop_assert!(!cleaned.contains(is_hidden));
            prop_assert!(cleaned.chars().count() <= max);
        }

        #[test]
        fn utf16_is_cleaned_as_its_text_is(
            units in prop_oneof![
                prop::collection::vec(any::<u16>(), 0..=64),
                prop::collection::vec(0x18_u16..0x82, 0..=64),
                prop::collection::vec(0x30_u16..0x7b, 0..=64),
            ],
        ) {
            let lossy = String::from_utf16_lossy(&units);
            let mut room = [0; 64];
            prop_assert_eq!(clean_utf16(&units, &mut room), clean(lossy.as_bytes(), 64));
        }

        #[test]
        fn cleaning_twice_is_cleaning_once(bytes in hostile(), max in 0usize..80) {
            let once = clean(&bytes, max).into_owned();
            prop_assert_eq!(clean(once.as_bytes(), max), once.as_str());
        }

        #[test]
        fn one_character_in_is_one_character_out(bytes in hostile()) {
            let decoded = String::from_utf8_lossy(&bytes);
            let cleaned = clean(&bytes, usize::MAX);
            prop_assert_eq!(decoded.chars().count(), cleaned.chars().count());
            for (before, after) in decoded.chars().zip(cleaned.chars()) {
                prop_assert_eq!(after, if is_hidden(before) { MARK } else { before });
            }
        }
    }
}
