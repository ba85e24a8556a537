//! Lines as a vlmcsd without `-v` prints them, for logs that a test writes itself.

use std::net::IpAddr;

/// Any moment will do: it is long ago, so messages say when it was.
const STAMP: &str = "2026-03-14 09:26:53: ";

/// A client's connection. Each method gives whole lines, LF included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visit<'a> {
    /// Where it comes from.
    pub ip: IpAddr,
    /// Its port there.
    pub port: u16,
    /// What the client calls itself.
    pub name: &'a str,
    /// What it asks for, in the server's words.
    pub product: &'a str,
}

impl Visit<'_> {
    /// A client called `PC` that asks for Windows 10.
    ///
    /// # Panics
    /// When `ip` is no address.
    #[must_use]
    pub fn from(ip: &str) -> Self {
        Self {
            ip: ip.parse().expect("a test knows its addresses"),
            port: 50_000,
            name: "PC",
            product: "Windows 10 Professional",
        }
    }

    /// The connection begins.
    #[must_use]
    pub fn opened(&self) -> String {
        format!("{STAMP}{} accepted: {}.\n", self.family(), self.address())
    }

    /// The connection ends.
    #[must_use]
    pub fn closed(&self) -> String {
        format!("{STAMP}{} closed: {}.\n", self.family(), self.address())
    }

    /// The request alone.
    #[must_use]
    pub fn asked(&self) -> String {
        let Self { name, product, .. } = self;
        format!("{STAMP}KMS v6.0 request from {name} for {product}\n")
    }

    /// The answer alone.
    #[must_use]
    pub fn answered(&self) -> String {
        format!(
            "{STAMP}Sending ePID (randomized at program start): \
             06401-00206-271-392041-03-1033-14393.0000-0492020\n"
        )
    }

    /// Connects, asks and gets its answer; the connection stays open.
    #[must_use]
    pub fn held(&self) -> String {
        self.opened() + &self.asked() + &self.answered()
    }

    /// All of an activation.
    #[must_use]
    pub fn activation(&self) -> String {
        self.held() + &self.closed()
    }

    /// All of a refusal.
    #[must_use]
    pub fn refusal(&self) -> String {
        let refused = format!("{STAMP}Refusing unknown product (0xC004F042)\n");
        self.opened() + &self.asked() + &refused + &self.closed()
    }

    /// A connection that asks nothing.
    #[must_use]
    pub fn probe(&self) -> String {
        self.opened() + &self.closed()
    }

    fn family(&self) -> &'static str {
        match self.ip {
            IpAddr::V4(_) => "IPv4 connection",
            IpAddr::V6(_) => "IPv6 connection",
        }
    }

    fn address(&self) -> String {
        std::net::SocketAddr::new(self.ip, self.port).to_string()
    }
}

/// The lines a server prints when it begins to listen.
#[must_use]
pub fn server_started() -> String {
    format!("{STAMP}vlmcsd svn1113, built 2020-03-30 10:00:00 UTC started successfully\n")
}

/// The line a server prints when it was asked to end.
#[must_use]
pub fn server_stopped() -> String {
    format!("{STAMP}vlmcsd svn1113, built 2020-03-30 10:00:00 UTC was shutdown\n")
}

#[cfg(test)]
mod tests {
    use super::Visit;

    #[test]
    fn lines_look_like_the_servers() {
        let visit = Visit::from("2001:db8::1");
        assert_eq!(
            visit.opened(),
            "2026-03-14 09:26:53: IPv6 connection accepted: [2001:db8::1]:50000.\n"
        );
        assert_eq!(Visit::from("10.0.0.1").activation().lines().count(), 4);
    }
}
