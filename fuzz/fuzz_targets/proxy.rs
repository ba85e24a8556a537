//! A PROXY header: no more is taken than there is, what is whole stays as it is
//! whatever follows, and what is broken does not become whole.
#![no_main]

use kms_core::server::proxy_header;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let whole = proxy_header(input);
    let Ok(Some((client, len))) = whole else {
        return;
    };
    assert!(len <= input.len());
    assert_eq!(proxy_header(&input[..len]), Ok(Some((client, len))));
    let more = [&input[..len], b"\x05\x00\x0b\x03"].concat();
    assert_eq!(proxy_header(&more), Ok(Some((client, len))));
    for cut in 0..len {
        // Never an address before the header is whole.
        assert!(
            !matches!(proxy_header(&input[..cut]), Ok(Some(_))),
            "{cut} of {len}"
        );
    }
});
