//! Request and response blocks that are being written, line by line.
//!
//! Blocks of concurrent clients interleave, and their lines carry no name
//! (kms-wire.md 7.10). One state machine runs for every block, waiting for its
//! next label; the writer of the last line goes on writing, and a response's
//! client machine id says which request it answers.

mod pairing;

use kms_core::catalog::{self, Product};
use kms_core::license::Status;
use kms_core::text::clean;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Seen;
use super::connections::Tick;
use super::values::{Values, guid};
use crate::event::{Request, Text};
use crate::line::{Label, Mark, number};

/// Blocks open at once at most; the oldest is given up.
const MAX_OPEN: usize = 256;

/// A workstation name has 64 UTF-16 units, 65 with vlmcsd's quirks (kms-wire.md 8.4).
pub(super) const NAME_UNITS: usize = 65;

/// The lines of a request block, in order (kms-wire.md 7.5).
const ASKING: [Label; 12] = [
    Label::Protocol,
    Label::VirtualMachine,
    Label::Status,
    Label::Remaining,
    Label::Application,
    Label::Activation,
    Label::KmsCounted,
    Label::ClientMachine,
    Label::PreviousClientMachine,
    Label::ClientTime,
    Label::Workstation,
    Label::MinClients,
];

/// The lines of a response block, in order; V4 and V5 have no hardware id (7.6).
const ANSWERING: [Label; 8] = [
    Label::Protocol,
    Label::Epid,
    Label::HardwareId,
    Label::ClientMachine,
    Label::ClientTime,
    Label::ActiveClients,
    Label::RenewalInterval,
    Label::ActivationInterval,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Stage {
    /// The request block is being written; the label with this index is next.
    Asking(usize),
    /// The request block is whole; a response or a refusal is next.
    Waiting,
    /// The response block is being written; the label with this index is next.
    Answering(usize),
}

/// One request, from its marker to its answer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Block {
    pub(super) begin: Tick,
    pub(super) seen: Seen,
    pub(super) mark: Option<Mark>,
    stage: Stage,
    /// The line that is next, which `stage` and the protocol tell.
    #[serde(skip)]
    awaited: Option<Label>,
    #[serde(with = "super::saved::boxed_request")]
    pub(super) request: Box<Request>,
    application_id: Option<Uuid>,
    /// What the catalogue knows by the request's activation id.
    #[serde(skip)]
    edition: Option<&'static Product>,
    /// The workstation name as logged, line feeds included.
    pub(super) name: Vec<u8>,
    pub(super) epid: Option<Text>,
    pub(super) active_clients: Option<u32>,
    /// Its marker may be forged, and no line has proved it yet.
    pub(super) suspect: bool,
    /// The line it took last may be forged: the same label may come once more.
    pub(super) last_suspect: bool,
    /// Some of its lines may be another block's, or some of theirs its own.
    pub(super) mixed: bool,
    /// A refusal that may be forged, kept in case no answer comes.
    pub(super) suspect_refusal: Option<(Text, u32)>,
    /// When it last took a line, in lines of the log.
    touched: u64,
}

impl Block {
    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    pub(super) fn set_stage(&mut self, stage: Stage) {
        self.stage = stage;
        self.awaited = match stage {
            Stage::Asking(next) => ASKING.get(next).copied(),
            Stage::Waiting => None,
            Stage::Answering(next) => match ANSWERING.get(next) {
                Some(Label::HardwareId) if !self.has_hardware_id() => Some(Label::ClientMachine),
                expected => expected.copied(),
            },
        };
    }

    /// Makes anew what is not stored.
    fn restored(mut self) -> Self {
        self.edition = self.request.activation_id.and_then(catalog::product);
        self.set_stage(self.stage);
        self
    }

    /// Whether it waits for just this label.
    fn expects(&self, label: Label) -> bool {
        self.awaited == Some(label)
    }

    /// Only V6 answers tell a hardware id (kms-wire.md 7.6).
    fn has_hardware_id(&self) -> bool {
        let protocol = self.request.protocol.as_deref();
        !protocol.is_some_and(|version| version.starts_with(['4', '5']))
    }

    /// How a line's value speaks for its being this block's: against it (the
    /// block already says otherwise), for nothing, for it.
    fn agrees(&self, clue: &Clue<'_>) -> Agreement {
        let answering = matches!(self.stage, Stage::Answering(_));
        let same = |same: bool| if same { Agreement::Yes } else { Agreement::No };
        // Half of all requests have the same version and second: equal says little.
        let unlike = |known: Option<&str>, value: &[u8]| match known {
            Some(known) if known.as_bytes() != value => Agreement::No,
            _ => Agreement::Perhaps,
        };
        match *clue {
            Clue::Machine(id) if answering => same(self.request.client_machine_id == id),
            Clue::ClientTime(value) if answering => {
                unlike(self.request.client_time.as_deref(), value)
            }
            Clue::Protocol(value) if answering => unlike(self.request.protocol.as_deref(), value),
            Clue::Edition(Some(product)) => {
                same(Some(product.application_id) == self.application_id)
            }
            Clue::Class(id) => match self.edition {
                Some(product) => same(Some(product.kms_counted_id) == id),
                None => Agreement::Perhaps,
            },
            Clue::MinClients(number) => match self.edition {
                Some(product) => same(Some(u64::from(product.min_clients)) == number),
                None => Agreement::Perhaps,
            },
            _ => Agreement::Perhaps,
        }
    }

    /// Whether `label` is the line it took last and may have been forged.
    fn repeats(&self, label: Label) -> bool {
        let last = match self.stage {
            Stage::Asking(next) => next.checked_sub(1).and_then(|last| ASKING.get(last)),
            Stage::Waiting => ASKING.last(),
            Stage::Answering(next) => next.checked_sub(1).and_then(|last| ANSWERING.get(last)),
        };
        self.last_suspect && last == Some(&label)
    }

    /// Whether `label` is further down in what it is writing: lines were lost,
    /// or one of them was taken for a forgery.
    fn reaches(&self, label: Label) -> bool {
        match self.stage {
            Stage::Asking(next) => ASKING.iter().skip(next).any(|expected| *expected == label),
            // Its response marker was lost or suspect.
            Stage::Waiting => ANSWERING.contains(&label) && label >= Label::Epid,
            Stage::Answering(next) => ANSWERING
                .iter()
                .skip(next)
                .any(|expected| *expected == label),
        }
    }

    /// Whether it waits for the label above this one, and that line looks alike in
    /// requests and responses: another block may have taken it.
    fn was_robbed(&self, label: Label) -> bool {
        let Stage::Asking(next) = self.stage else {
            return false;
        };
        let shared = matches!(ASKING.get(next), Some(Label::Protocol | Label::ClientTime));
        shared && ASKING.get(next + 1) == Some(&label)
    }

    /// Takes a line of its own; says whether its request is answered by it.
    fn take(&mut self, label: Label, value: &[u8], suspect: bool, values: &mut Values) -> bool {
        self.last_suspect = suspect;
        self.suspect &= suspect;
        let answering = matches!(self.stage, Stage::Answering(_)) || label >= Label::Epid;
        if answering && self.stage == Stage::Waiting {
            self.set_stage(Stage::Answering(0));
        }
        let labels: &[Label] = match self.stage {
            Stage::Asking(_) | Stage::Waiting => &ASKING,
            Stage::Answering(_) => &ANSWERING,
        };
        let at = labels.iter().position(|known| *known == label);
        self.take_at(at, label, value, values)
    }

    /// Takes the line that it waits for, which is surely the server's.
    #[inline]
    fn take_awaited(&mut self, label: Label, value: &[u8], values: &mut Values) -> bool {
        (self.last_suspect, self.suspect) = (false, false);
        let at = match self.stage {
            Stage::Asking(next) => next,
            // Without a hardware id, the one after.
            Stage::Answering(next) if ANSWERING.get(next) != Some(&label) => next + 1,
            Stage::Answering(next) => next,
            Stage::Waiting => return false,
        };
        self.take_at(Some(at), label, value, values)
    }

    /// Takes a line that stands at this place of what it is writing.
    #[inline]
    fn take_at(
        &mut self,
        at: Option<usize>,
        label: Label,
        value: &[u8],
        values: &mut Values,
    ) -> bool {
        if let Stage::Asking(_) | Stage::Waiting = self.stage {
            self.set_request(label, value, values);
            if let Some(at) = at {
                let whole = at + 1 == ASKING.len();
                self.set_stage(if whole {
                    Stage::Waiting
                } else {
                    Stage::Asking(at + 1)
                });
            }
            return false;
        }
        match label {
            Label::Epid => self.epid = values.get(label, value).name,
            Label::ActiveClients => {
                self.active_clients = number(value).and_then(|n| u32::try_from(n).ok());
            }
            _ => {}
        }
        let Some(at) = at else { return false };
        self.set_stage(Stage::Answering(at + 1));
        at + 1 == ANSWERING.len()
    }

    fn set_request(&mut self, label: Label, value: &[u8], values: &mut Values) {
        let request = &mut *self.request;
        match label {
            Label::Protocol => request.protocol = Some(clean(value, 11).into()),
            Label::VirtualMachine => {
                request.virtual_machine = match value {
                    b"Yes" => Some(true),
                    b"No" => Some(false),
                    _ => None,
                };
            }
            Label::Status => {
                let digits = value.split(|byte| *byte == b' ').next().unwrap_or_default();
                let code = number(digits).and_then(|code| u32::try_from(code).ok());
                request.status_code = code;
                request.status = Some(code.map_or(Status::Unknown, Status::from_code).name());
            }
            Label::Remaining => {
                let digits = value.split(|byte| *byte == b' ').next().unwrap_or_default();
                request.remaining_minutes = std::str::from_utf8(digits)
                    .ok()
                    .and_then(|digits| digits.parse().ok());
            }
            Label::Application => {
                let known = values.get(label, value);
                // A GUID at the beginning is enough to compare by.
                self.application_id = known.id;
                request.application = known.name.or_else(|| {
                    let group = known.id.and_then(catalog::application);
                    group.map(|group| group.name.into())
                });
            }
            Label::Activation => {
                let known = values.get(label, value);
                self.edition = known.edition;
                (request.activation_id, request.product) = (known.id, known.name);
            }
            Label::KmsCounted => {
                let known = values.get(label, value);
                request.kms_counted_id = known.id;
                resolve_product(request, known.name);
            }
            Label::ClientMachine => request.client_machine_id = guid(value),
            Label::PreviousClientMachine => {
                request.previous_client_machine_id = guid(value).filter(|id| !id.is_nil());
            }
            Label::ClientTime => request.client_time = Some(clean(value, 32).into()),
            Label::Workstation => {
                self.name.clear();
                // Bytes of 65 units in UTF-8 at most; a mangled file may have more.
                let kept = value.get(..NAME_UNITS * 4).unwrap_or(value);
                self.name.extend_from_slice(kept);
            }
            Label::MinClients => {
                request.min_clients = number(value).and_then(|n| u32::try_from(n).ok());
            }
            _ => {}
        }
    }
}

/// What a line's value says of the block that it may belong to.
enum Clue<'a> {
    Nothing,
    Machine(Option<Uuid>),
    ClientTime(&'a [u8]),
    Protocol(&'a [u8]),
    Edition(Option<&'static Product>),
    Class(Option<Uuid>),
    MinClients(Option<u64>),
}

impl<'a> Clue<'a> {
    fn of(label: Label, value: &'a [u8]) -> Self {
        match label {
            Label::ClientMachine => Self::Machine(guid(value)),
            Label::ClientTime => Self::ClientTime(value),
            Label::Protocol => Self::Protocol(value),
            Label::Activation => Self::Edition(guid(value).and_then(catalog::product)),
            Label::KmsCounted => Self::Class(guid(value)),
            Label::MinClients => Self::MinClients(number(value)),
            _ => Self::Nothing,
        }
    }
}

/// Whether a line's value fits what a block said before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Agreement {
    Yes,
    Perhaps,
    No,
}

/// What became of a block line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// No open block waits for it.
    Orphan,
    /// This block took it.
    Line(Tick),
    /// This block took it, and its request is answered.
    Answered(Tick),
}

/// The open blocks, oldest first.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Blocks {
    open: Vec<Block>,
    /// The block that wrote the last line, if the last line was a block's, and
    /// how many lines it has written since another one did.
    writer: Option<(Tick, u32)>,
    lines: u64,
    #[serde(skip)]
    values: Values,
    #[serde(skip)]
    pub(super) evicted: u64,
}

impl Blocks {
    /// Makes anew what is not stored.
    pub(super) fn restored(mut self) -> Self {
        self.open = self.open.into_iter().map(Block::restored).collect();
        self
    }

    /// Gives up all that is open.
    pub(super) fn clear(&mut self) {
        self.evicted += self.open.len() as u64;
        self.open.clear();
        self.writer = None;
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Opens a block. Returns one that had to be given up for it.
    pub(super) fn begin(
        &mut self,
        begin: Tick,
        seen: Seen,
        mark: Option<Mark>,
        suspect: bool,
    ) -> Option<Block> {
        self.lines += 1;
        let given_up = (self.open.len() >= MAX_OPEN).then(|| self.open.remove(0));
        self.evicted += u64::from(given_up.is_some());
        if !suspect {
            self.wrote(begin);
        }
        self.open.push(Block {
            begin,
            seen,
            mark,
            stage: Stage::Asking(0),
            awaited: ASKING.first().copied(),
            request: Box::default(),
            application_id: None,
            edition: None,
            name: Vec::new(),
            epid: None,
            active_clients: None,
            suspect,
            last_suspect: false,
            mixed: false,
            suspect_refusal: None,
            touched: self.lines,
        });
        given_up
    }

    pub(super) fn get_mut(&mut self, begin: Tick) -> Option<&mut Block> {
        self.open.iter_mut().find(|block| block.begin == begin)
    }

    pub(super) fn get(&self, begin: Tick) -> Option<&Block> {
        self.open.iter().find(|block| block.begin == begin)
    }

    /// The oldest block that fits.
    pub(super) fn find(&self, fits: impl Fn(&Block) -> bool) -> Option<Tick> {
        self.open
            .iter()
            .find(|block| fits(block))
            .map(|block| block.begin)
    }

    /// When the newest began that is no forgery for sure.
    pub(super) fn newest(&self) -> Option<Tick> {
        let real = self.open.iter().filter(|block| !block.suspect);
        real.map(|block| block.begin).max()
    }

    /// Whether another block than `not` waits for an answer.
    pub(super) fn others_wait(&self, not: Tick) -> bool {
        self.open
            .iter()
            .any(|block| block.begin != not && block.stage == Stage::Waiting)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    pub(super) fn remove(&mut self, begin: Tick) -> Option<Block> {
        let at = self.open.iter().position(|block| block.begin == begin)?;
        Some(self.open.remove(at))
    }

    /// Gives a line that is the server's to the block that waits for it.
    #[inline]
    pub(super) fn own_field(&mut self, label: Label, value: &[u8], pid: Option<u32>) -> Taken {
        match self.open.as_mut_slice() {
            // Nobody else is there who could have written it.
            [block] if block.expects(label) && pid.is_none() => {
                self.lines += 1;
                let begin = block.begin;
                block.touched = self.lines;
                let answered = block.take_awaited(label, value, &mut self.values);
                self.wrote(begin);
                if answered {
                    Taken::Answered(begin)
                } else {
                    Taken::Line(begin)
                }
            }
            _ => self.field(label, value, pid, None),
        }
    }

    /// Gives a line to the block that waits for it. A line that may be part of
    /// the name of `name_of` goes only to another block that waits for just it.
    pub(super) fn field(
        &mut self,
        label: Label,
        value: &[u8],
        pid: Option<u32>,
        name_of: Option<Tick>,
    ) -> Taken {
        self.lines += 1;
        let Some((at, sure)) = self.writer_of(label, value, pid, name_of) else {
            return Taken::Orphan;
        };
        if !sure {
            self.mixed_up(pid);
        }
        let suspect = name_of.is_some();
        let Some(block) = self.open.get_mut(at) else {
            return Taken::Orphan;
        };
        let begin = block.begin;
        block.touched = self.lines;
        let answered = block.take(label, value, suspect, &mut self.values);
        if !suspect {
            self.wrote(begin);
        }
        if self.open.len() > 1 {
            self.relink(begin, label, value);
        }
        if answered {
            Taken::Answered(begin)
        } else {
            Taken::Line(begin)
        }
    }

    /// Which block a line belongs to, and whether it can be no other's.
    fn writer_of(
        &self,
        label: Label,
        value: &[u8],
        pid: Option<u32>,
        name_of: Option<Tick>,
    ) -> Option<(usize, bool)> {
        let mine = |block: &Block| block.seen.is_by(pid);
        let last = |block: &Block| self.is_writer(block.begin);
        let fits =
            |block: &Block| mine(block) && Some(block.begin) != name_of && block.expects(label);
        let mut fitting = (self.open.iter().enumerate()).filter(|(_, block)| fits(block));
        if let Some((first, block)) = fitting.next() {
            let Some((second, other)) = fitting.next() else {
                return Some((first, true));
            };
            // Whose value it fits, then the writer of the last lines, then who has
            // waited longest for its turn; one that is only suspected, last.
            let clue = Clue::of(label, value);
            let rank = |block: &Block| {
                (
                    block.suspect,
                    block.agrees(&clue),
                    !self.goes_on(block.begin),
                    block.touched,
                )
            };
            let several = [(first, block), (second, other)].into_iter().chain(fitting);
            let best = several.clone().min_by_key(|(_, block)| rank(block))?;
            let as_good = |block: &Block| {
                block.suspect == best.1.suspect && block.agrees(&clue) == best.1.agrees(&clue)
            };
            let sure = several.filter(|(_, block)| as_good(block)).count() == 1;
            return Some((best.0, sure));
        }
        if name_of.is_some() {
            return None;
        }
        let repeats = |block: &Block| mine(block) && block.repeats(label);
        let reaches =
            |block: &Block| mine(block) && block.reaches(label) && (last(block) || pid.is_some());
        let only = |block: &Block| {
            self.open.len() == 1 && mine(block) && !block.suspect && block.reaches(label)
        };
        let robbed = |block: &Block| mine(block) && block.was_robbed(label);
        let find = |fits: &dyn Fn(&Block) -> bool| self.open.iter().position(fits);
        let at = find(&repeats)
            .or_else(|| find(&reaches))
            .or_else(|| find(&robbed))
            .or_else(|| find(&only))?;
        Some((at, self.open.len() == 1))
    }

    /// A line came that each open block of this process may have written, if there are
    /// several.
    pub(super) fn mixed_up(&mut self, pid: Option<u32>) {
        let own = |block: &Block| block.seen.is_by(pid);
        if self.open.iter().filter(|block| own(block)).count() > 1 {
            for block in self.open.iter_mut().filter(|block| own(block)) {
                block.mixed = true;
            }
        }
    }

    fn wrote(&mut self, begin: Tick) {
        self.writer = match self.writer {
            Some((last, lines)) if last == begin => Some((last, lines.saturating_add(1))),
            _ => Some((begin, 1)),
        };
    }

    fn is_writer(&self, begin: Tick) -> bool {
        self.writer.is_some_and(|(last, _)| last == begin)
    }

    /// Who has written several lines in a row goes on; two who write in turns
    /// go on in turns.
    fn goes_on(&self, begin: Tick) -> bool {
        self.writer
            .is_some_and(|(last, lines)| last == begin && lines > 1)
    }

    /// The request that a response marker or a refusal answers: the writer's own
    /// if it waits, else the one that has waited longest.
    pub(super) fn waiting(&self, pid: Option<u32>, mark: Option<Mark>) -> Option<Tick> {
        let waits = |block: &&Block| {
            block.stage == Stage::Waiting
                && block.seen.is_by(pid)
                && (mark.is_none() || block.mark.is_none() || block.mark == mark)
        };
        let mut waiting = self.open.iter().filter(waits);
        let first = waiting.next()?;
        let best = waiting.chain([first]).min_by_key(|block| {
            (
                !self.is_writer(block.begin),
                block.mark != mark,
                block.begin,
            )
        });
        best.map(|block| block.begin)
    }

    /// Whether another block than `not` waits for this line.
    pub(super) fn awaits(&self, label: Label, not: Tick) -> bool {
        self.open
            .iter()
            .any(|block| block.begin != not && block.expects(label))
    }

    /// A response marker was written for this block.
    pub(super) fn answer(&mut self, begin: Tick) {
        self.lines += 1;
        self.wrote(begin);
        let lines = self.lines;
        if let Some(block) = self.get_mut(begin) {
            block.set_stage(Stage::Answering(0));
            block.touched = lines;
        }
    }

    /// Somebody else wrote a line.
    pub(super) fn interrupted(&mut self) {
        self.writer = None;
    }
}

/// A product that the server did not know: by its activation id, else what the
/// server or the catalogue calls its KMS-counted class, else its application.
pub(super) fn resolve_product(request: &mut Request, class: Option<Text>) {
    if request.product.is_some() {
        return;
    }
    let by_id = request.activation_id.and_then(catalog::product);
    let by_class = || {
        let group = request.kms_counted_id.and_then(catalog::kms_counted);
        class.or_else(|| group.map(|group| group.name.into()))
    };
    request.product = by_id
        .map(|product| product.name.into())
        .or_else(by_class)
        .or_else(|| request.application.clone());
}
