//! Lab clients by the hundred, each from an address of its own, and the truth
//! about what they did.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use kms_core::catalog;
use kms_core::client::{Connection, Offer, connect};
use kms_core::lab::LabSuite;
use kms_core::message::{BaseRequest, FileTime, Version, envelope};
use kms_core::stub::{Encoding, Reply};
use kms_core::vlmcsd_log::Names;
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::DEADLINE;
use crate::score::{Action, Kind};

/// A lab client.
#[derive(Clone, Debug)]
pub struct Visitor {
    /// Where it connects from.
    pub from: Ipv4Addr,
    /// What it says its name is.
    pub workstation: String,
    /// How often it asks, on one connection.
    pub requests: u64,
    /// What it asks for: any number, by which one is taken from the catalogue.
    pub product: usize,
}

/// Clients and bare connections that come at the same time.
#[derive(Clone, Debug, Default)]
pub struct Crowd {
    /// Those that ask.
    pub clients: Vec<Visitor>,
    /// Where bare connections come from.
    pub probes: Vec<Ipv4Addr>,
}

/// What it came to.
#[derive(Clone, Debug)]
pub struct Lab {
    /// What was done, for [`crate::score::Figures`].
    pub truth: Vec<Action>,
    /// Requests that were answered, and opened with the lab suite.
    pub answered: u64,
}

impl Crowd {
    /// So many of each, every one with an address of its own.
    ///
    /// # Panics
    /// With more than 60,000 of a kind.
    #[must_use]
    pub fn of(clients: usize, probes: usize) -> Self {
        let visitor = |number| Visitor {
            from: address(1, number),
            workstation: format!("PC-{number}"),
            requests: 1 + number as u64 % 3,
            product: number,
        };
        Self {
            clients: (0..clients).map(visitor).collect(),
            probes: (0..probes).map(|number| address(2, number)).collect(),
        }
    }

    /// All clients connect and bind. Once the last one has, they ask, and the bare
    /// connections come and go meanwhile. Every third client keeps its connection
    /// until all have their answers.
    ///
    /// # Panics
    /// When one of them gets no answer, or one that the lab suite does not open.
    #[must_use]
    pub fn visit(&self, host: SocketAddr) -> Lab {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime starts");
        runtime.block_on(self.come_to(host))
    }

    async fn come_to(&self, host: SocketAddr) -> Lab {
        let bound = Arc::new(Barrier::new(self.clients.len() + self.probes.len()));
        let answered = Arc::new(Barrier::new(self.clients.len().div_ceil(3)));
        let mut tasks = JoinSet::new();
        for (number, visitor) in self.clients.iter().cloned().enumerate() {
            let (bound, answered) = (Arc::clone(&bound), Arc::clone(&answered));
            tasks.spawn(async move {
                let mut connection = open(host, visitor.from).await;
                bound.wait().await;
                let action = visitor.ask(&mut connection, number).await;
                if number.is_multiple_of(3) {
                    answered.wait().await;
                }
                action
            });
        }
        for from in self.probes.iter().copied() {
            let bound = Arc::clone(&bound);
            tasks.spawn(async move {
                bound.wait().await;
                let probe = connect(host, Some(IpAddr::V4(from)), DEADLINE).await;
                drop(probe.expect("a probe connects"));
                Action {
                    kind: Kind::Probe,
                    ip: from.to_string(),
                    workstation: None,
                    cmid: None,
                    product: None,
                    requests: None,
                }
            });
        }
        let truth = tasks.join_all().await;
        let answered = truth.iter().filter_map(|action| action.requests).sum();
        Lab { truth, answered }
    }
}

impl Visitor {
    /// Asks, on a connection that has bound; `number` makes its machine id.
    ///
    /// # Panics
    /// When there is no answer, or one that the lab suite does not open.
    pub async fn ask(self, connection: &mut Connection<TcpStream>, number: usize) -> Action {
        let products = catalog::products();
        let product = products
            .get(self.product % products.len())
            .expect("a remainder is less than what it was divided by");
        let machine =
            uuid::Uuid::from_u128(0x5eed_0000_0000_4000_8000_0000_0000_0000 + number as u128);
        let request = BaseRequest {
            version: Version::from(product.protocol),
            virtual_machine: 0,
            license_status: 2,
            remaining_minutes: 43_200,
            application_id: product.application_id,
            activation_id: product.activation_id,
            kms_counted_id: product.kms_counted_id,
            client_machine_id: machine,
            min_clients: product.min_clients,
            client_time: FileTime(134_200_000_000_000_000),
            previous_client_machine_id: uuid::Uuid::nil(),
            workstation: self.workstation.parse().expect("the name fits"),
        };
        let mut message = Vec::new();
        envelope::seal_request(&LabSuite, &request, &[7; 16], &mut message)
            .expect("the catalogue's protocols are known");
        // What the host prefers.
        let encoding = Encoding::Ndr64;
        for _ in 0..self.requests {
            match connection.call(encoding, &message).await {
                Ok(Reply::Data(answer)) => {
                    let opened = envelope::open_response(&LabSuite, &message, answer)
                        .expect("the answer is sealed");
                    assert_eq!(opened.response.client_machine_id, machine);
                }
                other => panic!("{self:?}: {other:?}"),
            }
        }
        Action {
            kind: Kind::Activation,
            ip: self.from.to_string(),
            workstation: Some(self.workstation),
            cmid: Some(machine.to_string()),
            product: Some(Names::of(&request).product.to_owned()),
            requests: Some(self.requests),
        }
    }
}

async fn open(host: SocketAddr, from: Ipv4Addr) -> Connection<TcpStream> {
    let stream = connect(host, Some(IpAddr::V4(from)), DEADLINE).await;
    let mut connection = Connection::new(stream.expect("a client connects"), DEADLINE);
    let bound = connection.bind(Offer::default()).await;
    bound.expect("a client's bind is accepted");
    connection
}

/// The loopback address with this number in 127.`net`.0.0/16.
fn address(net: u8, number: usize) -> Ipv4Addr {
    let byte = |number: usize| u8::try_from(number).expect("fewer than there are addresses");
    Ipv4Addr::new(127, net, byte(number / 250), byte(number % 250 + 1))
}
