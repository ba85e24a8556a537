//! Checks against a lab host behind a real listener.

use tokio::io::AsyncReadExt as _;

use super::*;
use crate::client::testing::{listen, serve};
use crate::responder::Policy;

/// Generous: only a failing test waits so long.
const DEADLINE: Duration = Duration::from_secs(30);

/// A host that answers only behind a header that tells of no client.
async fn host(header: &'static [u8]) -> Endpoint {
    let address = listen(move |mut stream| async move {
        let mut begin = vec![0; header.len()];
        if stream.read_exact(&mut begin).await.is_ok() && begin == header {
            serve(stream, Policy::default()).await;
        }
    })
    .await;
    address.to_string().parse().unwrap()
}

#[tokio::test]
async fn a_check_begins_with_the_header_that_the_upstream_expects() {
    let v1 = host(b"PROXY UNKNOWN\r\n").await;
    let v2 = host(b"\r\n\r\n\0\r\nQUIT\n\x20\x00\0\0").await;
    let none = host(b"").await;
    for (proxy_to, healthy) in [
        (None, [false, false, true]),
        (Some(ProxyVersion::V1), [true, false, false]),
        (Some(ProxyVersion::V2), [false, true, false]),
    ] {
        let all = [v1.clone(), v2.clone(), none.clone()];
        let upstreams = Upstreams::new(&all, DEADLINE).introduced_by(proxy_to);
        upstreams.check().await;
        assert_eq!(upstreams.healthy(), healthy, "{proxy_to:?}");
    }
}
