//! Events and times for the tests of the policy and of the sinks.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use uuid::Uuid;

use super::rows::{Changes, Stored, Table};
use super::{Policy, Settings};
use crate::event::{Attribution, Event, IdMaker, Kind, Request};

/// A moment, in seconds after the epoch.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

/// The milliseconds of a moment after the epoch.
pub(crate) fn millis(at: Timestamp) -> i64 {
    at.as_millisecond()
}

/// An answered request whose address is sure. `ip` and `product` also make its
/// id, its machine and its name.
pub(crate) fn activation(ip: &str, product: &str) -> Event {
    let id = IdMaker::new(b"head").id(0, format!("{ip} {product}").as_bytes());
    let request = Request {
        application: Some("Windows".into()),
        product: Some(product.into()),
        workstation: Some(format!("PC-{}", ip.replace('.', "-")).into()),
        client_machine_id: Some(Uuid::from_bytes(id.0)),
        status: Some("Notification"),
        ..Request::default()
    };
    Event {
        ip: Some(ip.parse().unwrap()),
        request: Some(Box::new(request)),
        attribution: Some(Attribution::Exact),
        ..Event::new(id, Arc::from("vlmcsd.log"), None, Kind::Activation)
    }
}

/// A request that was turned down.
pub(crate) fn refusal(ip: &str, product: &str) -> Event {
    Event {
        kind: Kind::Refused,
        hresult: Some(0xC004_F042),
        reason: Some("The requested product is not supported".into()),
        ..activation(ip, product)
    }
}

/// What a database would hold.
#[derive(Clone, Default, PartialEq, Debug)]
pub(crate) struct Disk(pub(crate) BTreeMap<(Table, Vec<u8>), Vec<u8>>);

impl Disk {
    pub(crate) fn write(&mut self, changes: Changes) {
        if changes.whole {
            self.0.clear();
        }
        for row in changes.rows {
            match row.value {
                Some(value) => self.0.insert((row.table, row.key), value),
                None => self.0.remove(&(row.table, row.key)),
            };
        }
    }

    pub(crate) fn rows(&self) -> Stored {
        self.0
            .iter()
            .map(|((table, key), value)| (*table, key.clone(), value.clone()))
            .collect()
    }

    pub(crate) fn start(&self) -> Policy {
        self.start_with(1)
    }

    pub(crate) fn start_with(&self, seed: u64) -> Policy {
        let mut policy = Policy::restore(Settings::default(), seed, &self.rows()).unwrap();
        policy.follow("vlmcsd.log".into());
        policy
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0
            .iter()
            .map(|((_, key), value)| key.len() + value.len())
            .sum()
    }
}
