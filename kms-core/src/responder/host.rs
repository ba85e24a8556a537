//! The host behind all connections: whom it answers, and with what.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use uuid::Uuid;

use crate::catalog::{self, Channel, Protocol};
use crate::cipher::CipherSuite;
use crate::message::{BaseRequest, BaseResponse, Epid, FileTime, Version, envelope};

use super::clients::Clients;
use super::{Exchange, Refusal, Verdict};

/// A request that needs more clients than this is refused; vlmcsd's number.
pub const MAX_MIN_CLIENTS: u32 = 1000;

/// How far a client's clock may be off, in steps of 100 ns: four hours.
const MAX_CLOCK_DIFFERENCE: u64 = 4 * 3600 * 10_000_000;

/// Which classes of products are refused (vlmcsd's `-K`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Whitelist {
    /// Those that the catalogue does not know, and those asked for with the id of
    /// another application (levels 1 and 3).
    pub known_only: bool,
    /// Those that are sold one by one, and betas (levels 2 and 3).
    pub volume_only: bool,
}

impl Whitelist {
    /// vlmcsd's level, 0 to 3.
    #[must_use]
    pub fn from_level(level: u8) -> Option<Self> {
        (level <= 3).then_some(Self {
            known_only: level & 1 != 0,
            volume_only: level & 2 != 0,
        })
    }
}

/// How clients are counted (vlmcsd's `-M`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Counting {
    /// Not at all: every client is told twice what it needs (`-M0`).
    #[default]
    Stateless,
    /// By client machine id, one list per application (`-M1`).
    Lists {
        /// Whether they begin empty (`-E1`), or with one client less than is
        /// enough.
        start_empty: bool,
    },
}

/// What a host is configured with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What the host calls itself.
    pub epid: Epid,
    /// Its hardware id, told in V6.
    pub hardware_id: [u8; 8],
    /// Minutes between attempts, told to clients.
    pub activation_interval: u32,
    /// Minutes between renewals, told to clients.
    pub renewal_interval: u32,
    /// Which classes are refused.
    pub whitelist: Whitelist,
    /// Whether a clock more than four hours off is refused (vlmcsd's `-c1`).
    pub check_client_time: bool,
    /// How clients are counted.
    pub counting: Counting,
    /// The least that [`Counting::Stateless`] tells.
    pub least_clients: u32,
    /// Whether bytes after a request are left alone, or make it invalid.
    pub tolerate_longer: bool,
}

impl Default for Policy {
    /// vlmcsd's defaults, with an extended PID of zeros that says it is a lab's.
    fn default() -> Self {
        Self {
            epid: "00000-00000-000-000000-03-1033-9600.0000-0012026"
                .parse()
                .expect("48 characters are fewer than 63"),
            hardware_id: *b"kms-core",
            activation_interval: 120,
            renewal_interval: 10_080,
            whitelist: Whitelist::default(),
            check_client_time: false,
            counting: Counting::default(),
            least_clients: 0,
            tolerate_longer: false,
        }
    }
}

/// A KMS host's state, shared by all its connections.
pub struct Host {
    policy: Policy,
    suite: Box<dyn CipherSuite + Send + Sync>,
    /// None if clients are not counted. The lock is held to count one, so that the
    /// rest of an answer is made by many threads at once.
    clients: Option<Mutex<Clients>>,
}

impl Host {
    /// A host that has seen no client yet. Random bytes fill the lists it starts
    /// with.
    pub fn new(
        policy: Policy,
        suite: Box<dyn CipherSuite + Send + Sync>,
        random: &mut dyn FnMut(&mut [u8]),
    ) -> Self {
        let clients = match policy.counting {
            Counting::Stateless => None,
            Counting::Lists { start_empty } => Some(Mutex::new(Clients::new(start_empty, random))),
        };
        Self {
            policy,
            suite,
            clients,
        }
    }

    /// What it was configured with.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Answers one KMS message: appends the sealed response to `out`, or nothing
    /// if the verdict is a refusal.
    pub fn answer(
        &self,
        message: &[u8],
        now: Timestamp,
        random: &mut dyn FnMut(&mut [u8]),
        out: &mut Vec<u8>,
    ) -> Exchange {
        let version = Version::detect(message).ok();
        let opened = envelope::open_request(&*self.suite, message, self.policy.tolerate_longer);
        let (request, verdict) = match opened {
            Ok(request) => {
                let verdict = match self.check(&request, now) {
                    Ok(active_clients) => {
                        self.respond(message, &request, active_clients, random, out)
                    }
                    Err(refusal) => Verdict::Refused(refusal),
                };
                (Some(request), verdict)
            }
            Err(error) => (None, Verdict::Refused(Refusal::Message(error))),
        };
        Exchange {
            version,
            request,
            verdict,
        }
    }

    /// vlmcsd's checks in vlmcsd's order, then the number of clients to tell.
    fn check(&self, request: &BaseRequest, now: Timestamp) -> Result<u32, Refusal> {
        if request.min_clients > MAX_MIN_CLIENTS {
            return Err(Refusal::MinClients);
        }
        let difference = request.client_time.abs_diff(FileTime::from(now));
        if self.policy.check_client_time && difference > MAX_CLOCK_DIFFERENCE {
            return Err(Refusal::ClientTime);
        }
        let class = Class::of(request.kms_counted_id);
        if self.policy.whitelist.volume_only && class.retail_or_beta {
            return Err(Refusal::RetailOrBeta);
        }
        if self.policy.whitelist.known_only {
            if !class.known {
                return Err(Refusal::UnknownProduct);
            }
            if class
                .application_id
                .is_some_and(|id| id != request.application_id)
            {
                return Err(Refusal::WrongApplication);
            }
        }
        // No overflow: N was checked first.
        let enough = (2 * request.min_clients).max(1);
        let Some(clients) = &self.clients else {
            return Ok(enough.max(self.policy.least_clients));
        };
        clients
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .count(class.application_id, request.client_machine_id, enough)
            .map_err(|_| Refusal::TooManyClients)
            .map(|count| u32::try_from(count).unwrap_or(u32::MAX))
    }

    fn respond(
        &self,
        message: &[u8],
        request: &BaseRequest,
        active_clients: u32,
        random: &mut dyn FnMut(&mut [u8]),
        out: &mut Vec<u8>,
    ) -> Verdict {
        let response = BaseResponse {
            version: request.version,
            epid: self.policy.epid,
            client_machine_id: request.client_machine_id,
            client_time: request.client_time,
            active_clients,
            activation_interval: self.policy.activation_interval,
            renewal_interval: self.policy.renewal_interval,
        };
        let mut iv = [0; 16];
        random(&mut iv);
        let hardware_id = self.policy.hardware_id;
        // The seal ties the response to the request without what follows it.
        let protocol = request.version.protocol();
        let len = protocol.map_or(message.len(), envelope::request_len);
        let sealed = message.get(..len).unwrap_or(message);
        match envelope::seal_response(&*self.suite, sealed, &response, hardware_id, &iv, out) {
            Ok(()) => Verdict::Answered {
                response,
                hardware_id: (protocol == Some(Protocol::V6)).then_some(hardware_id),
            },
            Err(error) => Verdict::Refused(Refusal::Message(error)),
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            policy, clients, ..
        } = self;
        f.debug_struct("Host")
            .field("policy", policy)
            .field("clients", clients)
            .finish_non_exhaustive()
    }
}

/// What the catalogue knows of a KMS-counted class.
struct Class {
    known: bool,
    /// The application of its products, all of which have the same.
    application_id: Option<Uuid>,
    /// No product of it has a volume licence.
    retail_or_beta: bool,
}

impl Class {
    fn of(kms_counted_id: Uuid) -> Self {
        let products = || {
            let all = catalog::products().iter();
            all.filter(move |product| product.kms_counted_id == kms_counted_id)
        };
        let first = products().next();
        Self {
            known: catalog::kms_counted(kms_counted_id).is_some(),
            application_id: first.map(|product| product.application_id),
            retail_or_beta: first.is_some()
                && products().all(|product| product.channel != Channel::Volume),
        }
    }
}
