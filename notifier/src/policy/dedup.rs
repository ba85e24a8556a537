//! Who was told about what, and when: at most one message per client and product
//! within the window.
//!
//! A key is *pending* from the moment a message is made for it, *told* once that
//! message was accepted, and free again when it was refused for good or when a
//! digest only counted it. The window knows keys and times; what the messages
//! say and when they leave is [`super::outbox`]'s business.

use std::hash::{Hash, Hasher, RandomState};
use std::net::IpAddr;
use std::num::NonZeroUsize;

use jiff::{SignedDuration, Timestamp};
use lru::LruCache;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::outbox::MessageId;
use super::rows::{Changed, Row, Table, Unreadable, decode, encode};
use crate::dedup_store::StoreKey;
use crate::event::{Attribution, Event, Kind, Text};

/// How many keys are remembered; beyond that the one unused for longest goes,
/// which at worst repeats a message.
pub const MAX_KEYS: usize = 4096;

/// What messages are deduplicated by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    about: About,
    who: Who,
    /// Absent where the log does not show it (a relayed request).
    product: Option<Text>,
}

impl Hash for Key {
    /// As little as tells keys apart: one number for who it is about, and the text.
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(match &self.who {
            Who::Address(IpAddr::V4(ip)) => ip.to_bits().into(),
            Who::Address(IpAddr::V6(ip)) => ip.to_bits(),
            Who::Machine(id) => id.as_u128(),
            Who::Workstation(_) | Who::Nobody => 0,
        });
        if let Who::Workstation(name) = &self.who {
            name.hash(state);
        }
        if let Some(product) = &self.product {
            product.hash(state);
        }
    }
}

/// A refusal never mutes an activation, nor the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum About {
    Activation,
    Refusal,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Who {
    Address(IpAddr),
    Machine(Uuid),
    Workstation(Text),
    Nobody,
}

impl Key {
    /// The key of an event; none for one that is never posted.
    ///
    /// Where the address is a guess (`ambiguous`) or not known, the machine
    /// stands for the client, so that a guess never mutes somebody else's
    /// address.
    #[must_use]
    pub fn of(event: &Event) -> Option<Self> {
        let about = match event.kind {
            _ if event.suspect => return None,
            Kind::Activation => About::Activation,
            Kind::Refused => About::Refusal,
            _ => return None,
        };
        let request = event.request.as_deref();
        let who = match event.ip {
            Some(ip) if event.attribution != Some(Attribution::Ambiguous) => {
                Who::Address(ip.to_canonical())
            }
            _ => request
                .and_then(|request| {
                    let machine = request.client_machine_id.filter(|id| !id.is_nil());
                    let workstation = request.workstation.clone();
                    machine
                        .map(Who::Machine)
                        .or(workstation.map(Who::Workstation))
                })
                .unwrap_or(Who::Nobody),
        };
        // An edition that has no name is still another edition.
        let product = request.and_then(|request| {
            let id = || request.activation_id.map(|id| Text::from(id.to_string()));
            request.product.clone().or_else(id)
        });
        Some(Self {
            about,
            who,
            product,
        })
    }

    /// What the key is called in a store that is shared with other sidecars: all
    /// that is in it and nothing else, the same in every version.
    pub(super) fn in_store(&self) -> StoreKey {
        let about: &[u8] = match self.about {
            About::Activation => b"activation",
            About::Refusal => b"refusal",
        };
        let octets: Vec<u8>;
        let who: [&[u8]; 2] = match &self.who {
            Who::Address(ip) => {
                octets = match ip {
                    IpAddr::V4(ip) => ip.octets().to_vec(),
                    IpAddr::V6(ip) => ip.octets().to_vec(),
                };
                [b"address", &octets]
            }
            Who::Machine(id) => [b"machine", id.as_bytes()],
            Who::Workstation(name) => [b"workstation", name.as_bytes()],
            Who::Nobody => [b"nobody", b""],
        };
        let mut parts = vec![about, who[0], who[1]];
        parts.extend(self.product.as_deref().map(str::as_bytes));
        StoreKey::of(&parts)
    }
}

/// What becomes of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Its key is free: a message is due. `repeats` events of this key were
    /// muted since it was last told.
    Post { repeats: u64 },
    /// Its key was told within the window; it was counted.
    Repeat,
    /// A message for its key is under way.
    Join(MessageId),
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Entry {
    state: State,
    /// Events since the key was last told that no message has mentioned.
    repeats: u64,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum State {
    Pending(MessageId),
    Told(Timestamp),
}

/// The keys of the last window, bounded by [`MAX_KEYS`].
#[derive(Debug)]
pub(super) struct Window {
    length: SignedDuration,
    entries: LruCache<Key, Entry, RandomState>,
    changed: Changed<Key>,
    evicted: u64,
}

impl Window {
    /// A window of that length; zero lets every event post.
    pub(super) fn new(length: SignedDuration) -> Self {
        let bound = NonZeroUsize::new(MAX_KEYS).expect("the bound is not zero");
        // Workstation names are keys, so clients choose what is hashed: SipHash
        // with a random key, not the crate's faster default.
        let entries = LruCache::with_hasher(bound, RandomState::new());
        Self {
            length,
            entries,
            changed: Changed::default(),
            evicted: 0,
        }
    }

    pub(super) fn set_length(&mut self, length: SignedDuration) {
        self.length = length;
        if length.is_zero() {
            self.entries.clear();
            self.changed.note_all();
        }
    }

    pub(super) fn length(&self) -> SignedDuration {
        self.length
    }

    /// What was told within the window, and for how long it stays so.
    pub(super) fn told(&self, now: Timestamp) -> impl Iterator<Item = (&Key, SignedDuration)> {
        self.entries.iter().filter_map(move |(key, entry)| {
            let State::Told(at) = entry.state else {
                return None;
            };
            let left = self.length - now.duration_since(at).abs();
            left.is_positive().then_some((key, left))
        })
    }

    pub(super) fn track(&mut self) {
        self.changed.track();
    }

    pub(super) fn changed(&self) -> &Changed<Key> {
        &self.changed
    }

    /// The rows that changed, or all.
    pub(super) fn rows(&mut self, whole: bool, out: &mut Vec<Row>) {
        let row = |key: &Key, entry: Option<&Entry>| Row {
            table: Table::Window,
            key: encode(key),
            value: entry.map(encode),
        };
        let changed = self.changed.take();
        if whole {
            out.extend(
                self.entries
                    .iter()
                    .map(|(key, entry)| row(key, Some(entry))),
            );
        } else {
            out.extend(changed.iter().map(|key| row(key, self.entries.peek(key))));
        }
    }

    /// Takes back stored rows. What was told longest ago goes first, should
    /// there be more than [`MAX_KEYS`].
    pub(super) fn restore<'a>(
        &mut self,
        rows: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<(), Unreadable> {
        let table = Table::Window;
        let mut entries: Vec<(Key, Entry)> = rows
            .map(|(key, value)| Ok((decode(table, key)?, decode(table, value)?)))
            .collect::<Result<_, _>>()?;
        entries.sort_by_key(|(_, entry)| match entry.state {
            State::Told(at) => at,
            State::Pending(_) => Timestamp::MAX,
        });
        for (key, entry) in entries {
            self.put(key, entry);
        }
        Ok(())
    }

    /// Keys that were dropped because [`MAX_KEYS`] newer ones came.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Decides about one more event of `key`.
    pub(super) fn handle_event(&mut self, key: &Key, now: Timestamp) -> Verdict {
        let Some(entry) = self.entries.get_mut(key) else {
            return Verdict::Post { repeats: 0 };
        };
        match entry.state {
            State::Pending(id) => Verdict::Join(id),
            // Time in a log steps back: a key told a little in the future was
            // told. One told more than a window ahead is a broken clock.
            State::Told(at) if now.duration_since(at).abs() < self.length => {
                entry.repeats += 1;
                self.changed.note(|| key.clone());
                Verdict::Repeat
            }
            State::Told(_) => Verdict::Post {
                repeats: entry.repeats,
            },
        }
    }

    /// A message was made for `key`.
    pub(super) fn handle_posted(&mut self, key: Key, message: MessageId) {
        self.put(
            key,
            Entry {
                state: State::Pending(message),
                repeats: 0,
            },
        );
    }

    /// A dead letter about `key` is told after all. Where a newer message is
    /// under way already, that one decides.
    pub(super) fn handle_retried(&mut self, key: Key, message: MessageId) {
        let repeats = match self.entries.peek(&key) {
            Some(Entry {
                state: State::Pending(_),
                ..
            }) => return,
            entry => entry.map_or(0, |entry| entry.repeats),
        };
        let state = State::Pending(message);
        self.put(key, Entry { state, repeats });
    }

    /// That message was accepted at `now`, without the last `unmentioned`
    /// events that had joined it.
    pub(super) fn handle_told(
        &mut self,
        key: Key,
        message: Option<MessageId>,
        unmentioned: u64,
        now: Timestamp,
    ) {
        // An evicted key may have a newer message by now, which decides.
        if let (
            Some(message),
            Some(Entry {
                state: State::Pending(newer),
                ..
            }),
        ) = (message, self.entries.peek(&key))
            && *newer != message
        {
            return;
        }
        self.put(
            key,
            Entry {
                state: State::Told(now),
                repeats: unmentioned,
            },
        );
    }

    /// Nobody read of `key`: the message was refused for good, or it was a
    /// digest that only counted the key.
    pub(super) fn handle_untold(&mut self, key: &Key, message: MessageId) {
        if let Some(Entry {
            state: State::Pending(current),
            ..
        }) = self.entries.peek(key)
            && *current == message
        {
            self.entries.pop(key);
            self.changed.note(|| key.clone());
        }
    }

    fn put(&mut self, key: Key, entry: Entry) {
        if self.length.is_zero() {
            return;
        }
        self.changed.note(|| key.clone());
        if let Some((gone, _)) = self.entries.push(key.clone(), entry)
            && gone != key
        {
            self.evicted += 1;
            self.changed.note(|| gone);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{activation, at, refusal};
    use proptest::prelude::*;

    fn window(seconds: i64) -> Window {
        Window::new(SignedDuration::from_secs(seconds))
    }

    fn key(ip: &str) -> Key {
        Key::of(&activation(ip, "Windows 10 Professional")).unwrap()
    }

    const POST: Verdict = Verdict::Post { repeats: 0 };

    #[test]
    fn the_window_counts_from_acceptance() {
        let mut window = window(3600);
        let message = MessageId(7);
        assert_eq!(window.handle_event(&key("10.0.0.1"), at(0)), POST);
        window.handle_posted(key("10.0.0.1"), message);
        assert_eq!(
            window.handle_event(&key("10.0.0.1"), at(4000)),
            Verdict::Join(message)
        );
        window.handle_told(key("10.0.0.1"), Some(message), 1, at(5000));
        assert_eq!(
            window.handle_event(&key("10.0.0.1"), at(8599)),
            Verdict::Repeat
        );
        assert_eq!(window.handle_event(&key("10.0.0.2"), at(8599)), POST);
        // One event joined too late to be mentioned, one was muted.
        let due = Verdict::Post { repeats: 2 };
        assert_eq!(window.handle_event(&key("10.0.0.1"), at(8600)), due);
    }

    #[test]
    fn a_final_refusal_frees_the_key() {
        let mut window = window(3600);
        window.handle_posted(key("10.0.0.1"), MessageId(1));
        window.handle_untold(&key("10.0.0.1"), MessageId(1));
        assert_eq!(window.handle_event(&key("10.0.0.1"), at(1)), POST);
    }

    #[test]
    fn time_may_step_back() {
        let mut window = window(3600);
        window.handle_told(key("10.0.0.1"), None, 0, at(10_000));
        assert_eq!(
            window.handle_event(&key("10.0.0.1"), at(6_401)),
            Verdict::Repeat
        );
        assert_eq!(
            window.handle_event(&key("10.0.0.1"), at(6_400)),
            Verdict::Post { repeats: 1 }
        );
        assert_eq!(
            window.handle_event(&key("10.0.0.1"), Timestamp::MIN),
            Verdict::Post { repeats: 1 }
        );
        window.handle_told(key("10.0.0.1"), None, 0, Timestamp::MAX);
        assert_eq!(window.handle_event(&key("10.0.0.1"), Timestamp::MIN), POST);
    }

    #[test]
    fn a_zero_window_remembers_nothing() {
        let mut window = window(0);
        window.handle_posted(key("10.0.0.1"), MessageId(1));
        assert_eq!(window.handle_event(&key("10.0.0.1"), at(0)), POST);
        window.handle_told(key("10.0.0.1"), Some(MessageId(1)), 0, at(0));
        assert_eq!(window.handle_event(&key("10.0.0.1"), at(0)), POST);
    }

    #[test]
    fn the_keys_are_bounded_and_evictions_counted() {
        let mut window = window(3600);
        let keys: Vec<Key> = (0..=MAX_KEYS)
            .map(|n| key(&format!("10.1.{}.{}", n / 256, n % 256)))
            .collect();
        for (n, key) in keys.iter().enumerate() {
            window.handle_posted(key.clone(), MessageId(n as u64));
        }
        assert_eq!(window.entries.len(), MAX_KEYS);
        assert_eq!(window.evicted(), 1);
        assert_eq!(window.handle_event(&keys[0], at(0)), POST);

        // The evicted key gets a newer message; the older one's fate is no news.
        let newer = MessageId(9999);
        window.handle_posted(keys[0].clone(), newer);
        window.handle_untold(&keys[0], MessageId(0));
        window.handle_told(keys[0].clone(), Some(MessageId(0)), 0, at(1));
        assert_eq!(window.handle_event(&keys[0], at(1)), Verdict::Join(newer));
        // An evicted key that was told all the same is known again.
        window.handle_told(keys[1].clone(), Some(MessageId(1)), 0, at(1));
        assert_eq!(window.handle_event(&keys[1], at(1)), Verdict::Repeat);
    }

    #[test]
    fn keys_tell_apart_what_must_not_mute_each_other() {
        let exact = activation("10.0.0.1", "Windows 10 Professional");
        let other_product = activation("10.0.0.1", "Office 2019");
        let refused = refusal("10.0.0.1", "Windows 10 Professional");
        let mut relayed = activation("10.0.0.1", "");
        relayed.request = None;
        let mut ambiguous = exact.clone();
        ambiguous.attribution = Some(Attribution::Ambiguous);
        let mut unnamed = ambiguous.clone();
        unnamed.request.as_mut().unwrap().client_machine_id = Some(Uuid::nil());
        let mut unknown = unnamed.clone();
        unknown.attribution = Some(Attribution::Unknown);
        unknown.ip = None;

        assert_eq!(Key::of(&unnamed), Key::of(&unknown));
        let keys: Vec<Key> = [
            &exact,
            &other_product,
            &refused,
            &relayed,
            &ambiguous,
            &unnamed,
        ]
        .map(|e| Key::of(e).unwrap())
        .into();
        for (n, key) in keys.iter().enumerate() {
            assert!(!keys[n + 1..].contains(key), "{key:?}");
        }
        // A guess is told by machine wherever it was seen.
        ambiguous.ip = Some("10.0.0.9".parse().unwrap());
        assert_eq!(Key::of(&ambiguous).as_ref(), Some(&keys[4]));
    }

    /// Sidecars of different versions share a store.
    #[test]
    fn a_key_has_the_same_name_in_every_store() {
        let named = |mut event: Event, change: &dyn Fn(&mut Event)| {
            change(&mut event);
            Key::of(&event).unwrap().in_store().to_string()
        };
        let exact = || activation("10.0.0.1", "Office 2019");
        let names = [
            named(exact(), &|_| {}),
            named(exact(), &|event| event.ip = "::ffff:10.0.0.1".parse().ok()),
            named(exact(), &|event| event.log = "another".into()),
            named(refusal("10.0.0.1", "Office 2019"), &|_| {}),
            named(activation("2001:db8::1", "Office 2019"), &|_| {}),
            named(exact(), &|event| event.ip = None),
            named(exact(), &|event| {
                event.ip = None;
                event.request.as_mut().unwrap().client_machine_id = None;
            }),
            named(exact(), &|event| {
                event.ip = None;
                event.request = None;
            }),
        ];
        insta::assert_snapshot!(names.join("\n"), @"
        0b7c1ba2305c4109fadb191eb1aa9c61
        0b7c1ba2305c4109fadb191eb1aa9c61
        0b7c1ba2305c4109fadb191eb1aa9c61
        dfe04a60f0526a624c3f2d021f8635d7
        fa1586b1c67a1084ec67495804d16efc
        55b1cb697666bce1ba27ee5d0bed2e1b
        4b3bb1550522ce7a801e3528e21e14a4
        321df5d630d72476d337783386545d30
        ");
        assert_eq!((&names[0], &names[0]), (&names[1], &names[2]));
        let different: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!(different.len(), names.len() - 2);
    }

    #[test]
    fn suspects_and_other_kinds_have_no_key() {
        let mut event = activation("10.0.0.1", "Windows 10 Professional");
        event.suspect = true;
        assert_eq!(Key::of(&event), None);
        for kind in [
            Kind::Probe,
            Kind::Aborted,
            Kind::Dropped,
            Kind::ServerStarted,
        ] {
            let mut event = activation("10.0.0.1", "x");
            event.kind = kind;
            assert_eq!(Key::of(&event), None, "{kind:?}");
        }
    }

    proptest! {
        /// With a sink that accepts at once, two posts of one key are a window
        /// apart, and no event is forgotten: each was posted, or is mentioned as
        /// a repeat by the next post, or still counted.
        #[test]
        fn posts_are_a_window_apart(steps in prop::collection::vec((-50_i64..200, 0_u8..4), 1..200)) {
            let mut window = window(100);
            let mut now = 0;
            let mut told = [None::<i64>; 4];
            let mut muted = [0_u64; 4];
            for (step, who) in steps {
                now += step;
                let key = key(&format!("10.0.0.{who}"));
                let (told, muted) = (&mut told[usize::from(who)], &mut muted[usize::from(who)]);
                match window.handle_event(&key, at(now)) {
                    Verdict::Post { repeats } => {
                        prop_assert!(told.is_none_or(|told| (now - told).abs() >= 100));
                        prop_assert_eq!(repeats, *muted);
                        window.handle_told(key, None, 0, at(now));
                        (*told, *muted) = (Some(now), 0);
                    }
                    Verdict::Repeat => {
                        prop_assert!(told.is_some_and(|told| (now - told).abs() < 100));
                        *muted += 1;
                    }
                    Verdict::Join(_) => prop_assert!(false, "nothing is pending"),
                }
            }
        }
    }
}
