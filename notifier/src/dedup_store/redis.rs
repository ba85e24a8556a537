//! The store of claims in Redis or Valkey.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, TlsCertificates};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::{Act, Answer, CLAIM_LIFE, Request, SharedDedup, StoreError};

/// Before a key's hash; the number changes when the value's form does.
const PREFIX: &str = "kms-notifier:dedup:1:";

// A value is its [`super::Holder`], and ` told` once it is final. Each script answers
// {how it stands, milliseconds left}. Scripts, since a comparison and what follows
// from it must not be torn apart; their keys are in KEYS, as a cluster wants it.

const CLAIM: &str = "
local held = redis.call('GET', KEYS[1])
if not held then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return {'ours', 0}
end
local left = redis.call('PTTL', KEYS[1])
if held == ARGV[1] or left < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
if held == ARGV[1] then return {'ours', 0} end
left = math.max(left, 0)
if string.sub(held, -5) == ' told' then return {'told', left} end
return {'theirs', left}
";

const TELL: &str = "
local held = redis.call('GET', KEYS[1])
if not held or string.sub(held, -5) ~= ' told' then
  redis.call('SET', KEYS[1], ARGV[1] .. ' told', 'PX', ARGV[2])
end
return {'told', math.max(redis.call('PTTL', KEYS[1]), 0)}
";

const RELEASE: &str = "
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return {'ours', 0}
";

/// How to reach the store.
#[derive(Clone, Copy)]
pub struct Access<'a> {
    /// `redis://[USER@]HOST[:PORT][/DB]` or `rediss://…` (TLS).
    pub url: &'a str,
    /// The password, in place of one in the URL.
    pub password: Option<&'a str>,
    /// With TLS: the authorities to trust, as PEM, in place of the public ones.
    pub authorities: Option<&'a [u8]>,
    /// Longest wait for a connection, and for an answer.
    pub timeout: Duration,
}

/// Claims in Redis or Valkey. Connects when it is first needed, and again after a
/// failure; all requests of a call go out together.
pub struct RedisStore {
    client: Client,
    config: AsyncConnectionConfig,
    timeout: Duration,
    connection: Option<MultiplexedConnection>,
}

impl RedisStore {
    /// A store that is not connected yet.
    ///
    /// # Errors
    /// What is wrong with the URL or the certificates and what to give, without
    /// the URL itself.
    pub fn new(access: &Access<'_>) -> Result<Self, StoreError> {
        let wrong = |what: &str| StoreError(what.to_owned());
        let mut info = access.url.into_connection_info().map_err(|_| {
            wrong("is not the address of a store; give redis://HOST:PORT/DB or rediss://…")
        })?;
        let tls = match info.addr() {
            ConnectionAddr::Tcp(..) => false,
            ConnectionAddr::TcpTls { insecure: true, .. } => {
                return Err(wrong(
                    "would take any certificate; leave #insecure away and give the authority \
                     by --dedup-store-ca-file",
                ));
            }
            ConnectionAddr::TcpTls { .. } => true,
            _ => {
                return Err(wrong(
                    "is not a network address; give redis:// or rediss://",
                ));
            }
        };
        let mut settings = info.redis_settings().clone().set_skip_set_lib_name();
        if let Some(password) = access.password {
            if settings.password().is_some() {
                return Err(wrong(
                    "has a password in it, and --dedup-store-password-file has one; give one of them",
                ));
            }
            settings = settings.set_password(password);
        }
        info = info.set_redis_settings(settings);
        let client = match access.authorities {
            Some(_) if !tls => {
                return Err(wrong(
                    "has no TLS to check; give rediss:// or no --dedup-store-ca-file",
                ));
            }
            Some(pem) if !has_certificates(pem) => {
                return Err(wrong(
                    "--dedup-store-ca-file has no certificates; give a file of them, as PEM",
                ));
            }
            Some(pem) => {
                let certificates = TlsCertificates {
                    client_tls: None,
                    root_cert: Some(pem.to_vec()),
                };
                Client::build_with_tls(info, certificates)
            }
            None => Client::open(info),
        }
        .map_err(|error| StoreError(format!("cannot be used: {error}")))?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(access.timeout))
            .set_response_timeout(Some(access.timeout));
        Ok(Self {
            client,
            config,
            timeout: access.timeout,
            connection: None,
        })
    }

    async fn try_carry_out(&mut self, requests: &[Request]) -> Result<Vec<Answer>, String> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self
                .client
                .get_multiplexed_async_connection_with_config(&self.config)
                .await
                .map_err(|error| error.to_string())?,
        };
        let mut pipeline = ::redis::pipe();
        for request in requests {
            let (script, life) = match request.act {
                Act::Claim => (CLAIM, CLAIM_LIFE),
                Act::Tell(life) => (TELL, life),
                Act::Release => (RELEASE, CLAIM_LIFE),
            };
            // A life of nothing is an error to the store.
            let millis = u64::try_from(life.as_millis())
                .unwrap_or(u64::MAX / 2)
                .max(1);
            pipeline
                .cmd("EVAL")
                .arg(script)
                .arg(1)
                .arg(format!("{PREFIX}{}", request.key))
                .arg(request.holder.to_string())
                .arg(millis);
        }
        let answers: Vec<(String, u64)> = pipeline
            .query_async(&mut connection)
            .await
            .map_err(|error| error.to_string())?;
        if answers.len() != requests.len() {
            return Err(format!(
                "{} answers to {} requests",
                answers.len(),
                requests.len()
            ));
        }
        // Only a connection on which all went well is used again.
        let answers = answers
            .into_iter()
            .map(understood)
            .collect::<Result<_, _>>()?;
        self.connection = Some(connection);
        Ok(answers)
    }
}

fn has_certificates(pem: &[u8]) -> bool {
    let mut certificates = CertificateDer::pem_slice_iter(pem);
    certificates.next().is_some_and(|first| first.is_ok()) && certificates.all(|each| each.is_ok())
}

fn understood((how, left): (String, u64)) -> Result<Answer, String> {
    let left = Duration::from_millis(left);
    match &*how {
        "ours" => Ok(Answer::Ours),
        "told" => Ok(Answer::Told { left }),
        "theirs" => Ok(Answer::Theirs { expires_in: left }),
        _ => Err("an answer that is none".to_owned()),
    }
}

impl SharedDedup for RedisStore {
    async fn carry_out(&mut self, requests: &[Request]) -> Result<Vec<Answer>, StoreError> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        // Resolving a name has no limit of its own.
        let limit = self.timeout.saturating_mul(2);
        match tokio::time::timeout(limit, self.try_carry_out(requests)).await {
            Ok(answers) => answers.map_err(StoreError),
            Err(_) => Err(StoreError(format!("no answer within {limit:?}"))),
        }
    }
}

#[cfg(test)]
mod tests;
