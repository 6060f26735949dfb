//! Ready audio of answers. Enters: frames of 20 ms at 16 kHz; leaves: the same, as good as a telephone is. In memory, and on
//! the disk, it is Opus at 24 kbit/s: a tenth of what the frames are, wideband as calls are, and unpacked two hundred times
//! faster than it is heard. What was asked for last stays in memory.

use std::collections::HashMap;
use std::sync::Arc;

/// Samples of a frame.
pub const FRAME: usize = 320;

/// 20 ms.
pub type Samples = [i16; FRAME];

const RATE: u32 = 16_000;
const BITS: i32 = 24_000;

/// Bytes of compressed audio in memory: six hours.
const BUDGET: usize = 64 << 20;

/// The longest packet of 20 ms that is written.
const PACKET: usize = 400;

/// A part of an answer that is spoken at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Clause {
    /// Its words.
    pub text: String,
    /// What they sound like.
    pub frames: Vec<Samples>,
}

/// The audio of an answer, compressed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Clip(Arc<[Packets]>);

#[derive(Clone, PartialEq, Eq, Debug)]
struct Packets {
    text: String,
    packets: Vec<Vec<u8>>,
}

impl Clip {
    /// Compresses an answer.
    ///
    /// # Errors
    /// What libopus says; only want of memory.
    pub fn pack(clauses: &[Clause]) -> opus::Result<Self> {
        let mut encoder = opus::Encoder::new(RATE, opus::Channels::Mono, opus::Application::Voip)?;
        encoder.set_bitrate(opus::Bitrate::Bits(BITS))?;
        let pack = |clause: &Clause| {
            let packets =
                clause.frames.iter().map(|frame| encoder.encode_vec(frame, PACKET)).collect::<opus::Result<_>>();
            packets.map(|packets| Packets { text: clause.text.clone(), packets })
        };
        Ok(Self(clauses.iter().map(pack).collect::<opus::Result<_>>()?))
    }

    /// The audio; none if it is damaged.
    #[must_use]
    pub fn unpack(&self) -> Option<Vec<Clause>> {
        let mut decoder = opus::Decoder::new(RATE, opus::Channels::Mono).ok()?;
        let mut unpack = |packets: &Packets| {
            let mut frames = Vec::with_capacity(packets.packets.len());
            for packet in &packets.packets {
                let mut samples = [0; FRAME];
                (decoder.decode(packet, &mut samples, false).ok()? == FRAME).then(|| frames.push(samples))?;
            }
            Some(Clause { text: packets.text.clone(), frames })
        };
        self.0.iter().map(&mut unpack).collect()
    }

    /// How many frames it has.
    #[must_use]
    pub fn frames(&self) -> usize {
        self.0.iter().map(|clause| clause.packets.len()).sum()
    }

    fn size(&self) -> usize {
        self.0.iter().flat_map(|clause| &clause.packets).map(|packet| packet.len() + size_of::<Vec<u8>>()).sum()
    }

    /// For the disk: of each clause its words and its packets, each with its length in front.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let part = |part: &[u8], bytes: &mut Vec<u8>| {
            bytes.extend(u16::try_from(part.len()).unwrap_or(u16::MAX).to_le_bytes());
            bytes.extend(part.iter().take(usize::from(u16::MAX)));
        };
        for clause in self.0.iter() {
            part(clause.text.as_bytes(), &mut bytes);
            bytes.extend(u16::try_from(clause.packets.len()).unwrap_or(u16::MAX).to_le_bytes());
            clause.packets.iter().take(usize::from(u16::MAX)).for_each(|packet| part(packet, &mut bytes));
        }
        bytes
    }

    /// From the disk; none if that is damaged.
    #[must_use]
    pub fn from_bytes(mut bytes: &[u8]) -> Option<Self> {
        fn number(bytes: &mut &[u8]) -> Option<usize> {
            let (number, rest) = bytes.split_first_chunk::<2>()?;
            *bytes = rest;
            Some(usize::from(u16::from_le_bytes(*number)))
        }
        fn part<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
            let len = number(bytes)?;
            let (part, rest) = bytes.split_at_checked(len)?;
            *bytes = rest;
            Some(part)
        }
        let mut clauses = Vec::new();
        while !bytes.is_empty() {
            let text = String::from_utf8(part(&mut bytes)?.to_vec()).ok()?;
            let count = number(&mut bytes)?;
            let packets = (0..count).map(|_| part(&mut bytes).map(<[u8]>::to_vec)).collect::<Option<Vec<_>>>()?;
            clauses.push(Packets { text, packets });
        }
        Some(Self(clauses.into()))
    }
}

/// Voice and answer.
pub(super) type Key = (String, String);

struct Kept {
    clip: Clip,
    used: u64,
}

/// The clips that are in memory, and which there are at all.
#[derive(Default)]
pub(super) struct Clips {
    /// None: it is on the disk only.
    clips: HashMap<Key, Option<Kept>>,
    bytes: usize,
    uses: u64,
}

/// What is known of a clip.
pub(super) enum Held {
    Here(Clip),
    OnDisk,
    Nowhere,
}

impl Clips {
    /// It is on the disk, and perhaps at hand.
    pub(super) fn put(&mut self, key: Key, clip: Option<Clip>) {
        self.uses += 1;
        if let Some(Some(before)) = self.clips.remove(&key) {
            self.bytes -= before.clip.size();
        }
        self.bytes += clip.as_ref().map_or(0, Clip::size);
        let used = self.uses;
        self.clips.insert(key, clip.map(|clip| Kept { clip, used }));
        while self.bytes > BUDGET {
            let here = self.clips.iter_mut().filter(|(_, kept)| kept.is_some());
            let oldest = here.min_by_key(|(_, kept)| kept.as_ref().map_or(u64::MAX, |kept| kept.used));
            match oldest.and_then(|(_, kept)| kept.take()) {
                Some(kept) => self.bytes -= kept.clip.size(),
                None => return,
            }
        }
    }

    pub(super) fn get(&mut self, key: &Key) -> Held {
        self.uses += 1;
        let used = self.uses;
        match self.clips.get_mut(key) {
            Some(Some(kept)) => {
                kept.used = used;
                Held::Here(kept.clip.clone())
            }
            Some(None) => Held::OnDisk,
            None => Held::Nowhere,
        }
    }

    pub(super) fn holds(&self, key: &Key) -> bool {
        self.clips.contains_key(key)
    }

    /// Forgets those that nobody can ask for any more: their keys.
    pub(super) fn forget(&mut self, unwanted: impl Fn(&Key) -> bool) -> Vec<Key> {
        let gone: Vec<Key> = self.clips.keys().filter(|key| unwanted(key)).cloned().collect();
        for key in &gone {
            if let Some(Some(kept)) = self.clips.remove(key) {
                self.bytes -= kept.clip.size();
            }
        }
        gone
    }

    /// How many there are, and the bytes of those in memory.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.clips.len(), self.bytes)
    }

    /// Whether more fit into memory.
    pub(super) fn has_room(&self) -> bool {
        self.bytes < BUDGET
    }
}
