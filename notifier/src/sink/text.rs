//! Numbers, addresses and moments as bytes, for lines that are written by the
//! hundred thousand. Each writes what `Display` does, which the tests hold it to.

use std::fmt::Display;
use std::io::Write as _;
use std::net::IpAddr;

use crate::event::EventTime;

/// Appends what `Display` shows.
pub(crate) fn display(out: &mut Vec<u8>, shown: impl Display) {
    write!(out, "{shown}").expect("a list of bytes takes what is written");
}

/// Appends a number in decimal digits.
pub(crate) fn number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut left = digits.len();
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        left -= 1;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(left..).unwrap_or_default());
}

/// Each octet with a dot before it, and how long that is.
static OCTETS: [([u8; 4], usize); 256] = {
    let (mut octets, mut octet) = ([([b'.'; 4], 0); 256], 0_u8);
    loop {
        let digits = [octet / 100, octet / 10 % 10, octet % 10];
        let mut length = 1;
        let mut at = match octet {
            0..10 => 2,
            10..100 => 1,
            _ => 0,
        };
        #[expect(
            clippy::indexing_slicing,
            reason = "three digits and a dot, and checked at compile time"
        )]
        while at < digits.len() {
            octets[octet as usize].0[length] = b'0' + digits[at];
            (at, length) = (at + 1, length + 1);
            octets[octet as usize].1 = length;
        }
        if octet == u8::MAX {
            break octets;
        }
        octet += 1;
    }
};

/// Appends an address.
pub(crate) fn address(out: &mut Vec<u8>, ip: IpAddr) {
    let IpAddr::V4(ip) = ip else {
        return display(out, ip);
    };
    // In one piece, of which each octet overwrites what the one before had too much.
    let (mut text, mut length) = ([0; 16], 0);
    for octet in ip.octets() {
        if let Some((digits, size)) = OCTETS.get(usize::from(octet))
            && let Some(place) = text.get_mut(length..).and_then(<[u8]>::first_chunk_mut)
        {
            *place = *digits;
            length += size;
        }
    }
    out.extend_from_slice(text.get(1..length).unwrap_or_default());
}

/// Moments as text. Events that follow each other share one more often than not.
#[derive(Debug, Default)]
pub(crate) struct Times {
    last: Option<EventTime>,
    text: Vec<u8>,
}

impl Times {
    /// The moment in RFC 3339.
    pub(crate) fn show(&mut self, time: EventTime) -> &[u8] {
        if self.last != Some(time) {
            self.text.clear();
            display(&mut self.text, time);
            self.last = Some(time);
        }
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_ends_of_the_range() {
        for n in [0, 9, 10, u64::MAX] {
            assert_eq!(written(|out| number(out, n)), n.to_string());
        }
        for octet in 0..=u8::MAX {
            let ip = IpAddr::from([octet, 255, 0, octet]);
            assert_eq!(written(|out| address(out, ip)), ip.to_string());
        }
    }

    proptest! {
        #[test]
        fn numbers_and_addresses_are_what_they_display(n: u64, ip: IpAddr) {
            prop_assert_eq!(written(|out| number(out, n)), n.to_string());
            prop_assert_eq!(written(|out| address(out, ip)), ip.to_string());
        }
    }
}
