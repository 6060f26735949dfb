//! The recorder as a call and an operator meet it.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::base::{CallId, Clock, ManualClock};

const CALL: CallId = CallId(0xab);

/// Frames that a test puts in, and whether the call is over.
#[derive(Clone, Default)]
struct Line(Arc<Mutex<(VecDeque<Pair>, bool)>>);

impl Source for Line {
    fn next(&mut self) -> Option<Pair> {
        self.0.lock().expect("locked").0.pop_front()
    }

    fn is_over(&self) -> bool {
        let line = self.0.lock().expect("locked");
        line.1 && line.0.is_empty()
    }
}

impl Line {
    /// So many frames from an index on, of a low tone at the far end and a high one of the agent.
    fn say(&self, from: u64, frames: u64) {
        let mut line = self.0.lock().expect("locked");
        for index in from..from + frames {
            let tone = |period: u64| {
                let at = |sample: usize| ((index * FRAME as u64 + sample as u64) / period).is_multiple_of(2);
                std::array::from_fn(|sample| if at(sample) { 6000 } else { -6000 })
            };
            line.0.push_back(Pair { index, far_end: tone(40), agent: tone(8) });
        }
    }

    /// Waits until the recorder has taken all of it.
    fn taken(&self) {
        for _ in 0..500 {
            if self.0.lock().expect("locked").0.is_empty() {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        panic!("frames are left");
    }

    fn hang_up(&self) {
        self.0.lock().expect("locked").1 = true;
    }
}

struct House {
    recorder: Recorder,
    clock: Arc<ManualClock>,
    told: Arc<Mutex<Vec<Part>>>,
    folder: PathBuf,
}

fn keys(seed: u64) -> KeyRing {
    KeyRing::parse(&generate(None, || seed).expect("a secret")).expect("keys")
}

fn start(folder: &Path, keys: KeyRing, permitted: bool) -> House {
    let (clock, told) = (Arc::new(ManualClock::default()), Arc::<Mutex<Vec<Part>>>::default());
    let mut next = 0;
    let random = Box::new(move || {
        next += 1;
        next
    });
    let (own, own_clock): (_, Arc<dyn Clock>) = (Arc::clone(&told), clock.clone());
    let tell: Told = Box::new(move |part| own.lock().expect("locked").push(part));
    let settings = Settings { keys, keep_days: Some(30) };
    let hooks: (Permitted, _) = (Box::new(move |_| Some(permitted)), tell);
    let recorder = Recorder::start(folder.to_owned(), settings, own_clock, random, hooks).expect("a thread");
    House { recorder, clock, told, folder: folder.to_owned() }
}

impl House {
    fn record(&self, line: &Line) -> Arc<AtomicBool> {
        let paused = Arc::new(AtomicBool::new(false));
        self.recorder.handle().begin(CALL, Box::new(line.clone()), Arc::clone(&paused));
        paused
    }

    /// Waits until the recorder has said so many things of parts.
    fn told(&self, times: usize) -> Vec<Part> {
        for _ in 0..500 {
            let told = self.told.lock().expect("locked").clone();
            if told.len() >= times {
                return told;
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        panic!("the recorder has said {:?}", self.told.lock().expect("locked"));
    }

    fn wav(&self) -> Vec<(i16, i16)> {
        let wav = self.recorder.handle().export(CALL, AudioFormat::Wav).expect("a WAV");
        let mut reader = hound::WavReader::new(wav.as_slice()).expect("a WAV");
        assert_eq!((reader.spec().channels, reader.spec().sample_rate), (2, RATE));
        let samples: Vec<i16> = reader.samples().map(|sample| sample.expect("a sample")).collect();
        samples.chunks_exact(2).map(|both| (both[0], both[1])).collect()
    }
}

/// How often a channel changes its sign in a second.
fn pitch(samples: impl Iterator<Item = i16>) -> usize {
    let samples: Vec<_> = samples.collect();
    let changes = samples.windows(2).filter(|pair| (pair[0] < 0) != (pair[1] < 0)).count();
    changes * RATE as usize / samples.len().max(1)
}

#[test]
fn each_side_has_a_channel_of_its_own_and_the_disk_holds_no_plain_ogg() {
    let folder = tempfile::tempdir().expect("a folder");
    let house = start(&folder.path().join("recordings"), keys(1), true);
    let line = Line::default();
    house.record(&line);
    line.say(7, 150);
    line.hang_up();
    let told = house.told(2);
    let end = told.last().expect("an end");
    assert_eq!((end.call, end.part, end.frames, end.lost, end.ended), (CALL, 1, 150, 0, true));
    assert_eq!(end.key, keys(1).newest_id());

    let audio = house.wav();
    assert_eq!(audio.len(), 150 * FRAME);
    let middle = || audio[FRAME * 20..FRAME * 140].iter();
    let (left, right) = (pitch(middle().map(|both| both.0)), pitch(middle().map(|both| both.1)));
    assert!((350..500).contains(&left) && (1900..2100).contains(&right), "left {left}, right {right}");

    let ogg = house.recorder.handle().export(CALL, AudioFormat::Ogg).expect("an Ogg");
    assert!(ogg.starts_with(b"OggS") && ogg.windows(8).any(|part| part == b"OpusHead"));
    let mut reader = ogg::PacketReader::new(std::io::Cursor::new(ogg));
    let packets: Vec<_> = std::iter::from_fn(|| reader.read_packet().expect("sound pages")).collect();
    assert_eq!(packets.len(), 2 + 150);
    let last = packets.last().expect("a packet");
    assert!(last.last_in_stream() && last.absgp_page() == 150 * 960);

    let file = fs::read(folder::path(&house.folder, CALL, 1)).expect("a file");
    assert_eq!(file.len() as u64, end.bytes);
    assert!(!file.windows(4).any(|part| part == b"OggS" || part == b"Opus"), "nothing of it lies open");
    assert!(
        house
            .recorder
            .handle()
            .export(CallId(1), AudioFormat::Ogg)
            .is_err_and(|error| { error.to_string() == "there is no recording of call 0000000000000001" })
    );
}

#[test]
fn a_recorder_that_dies_leaves_what_it_wrote_and_the_next_one_goes_on_in_a_second_part() {
    let folder = tempfile::tempdir().expect("a folder");
    let house = start(folder.path(), keys(1), true);
    let line = Line::default();
    house.record(&line);
    line.say(0, 120);
    house.told(1);
    let path = folder::path(&house.folder, CALL, 1);
    // Two whole seconds are on the disk then; the rest waits, and dies with the process.
    line.taken();
    let (died, at) = (fs::read(&path).expect("a file"), tempfile::tempdir().expect("another folder"));
    fs::write(folder::path(at.path(), CALL, 1), died).expect("copied");

    let rotated = KeyRing::parse(&generate(Some(&generate(None, || 1).expect("a secret")), || 2).expect("a secret"));
    let house = start(at.path(), rotated.expect("keys"), true);
    house.clock.advance(Duration::from_secs(3));
    let line = Line::default();
    house.record(&line);
    line.say(0, 50);
    line.hang_up();
    let told = house.told(2);
    assert_eq!((told[1].part, told[1].frames), (2, 50));
    assert_eq!(told[1].key, keys(2).newest_id(), "the new key seals");
    let audio = house.wav();
    // The clock of the first one stood still: its parts are three seconds apart.
    assert_eq!(audio.len(), (150 + 50) * FRAME, "two seconds, one of silence, one second");
    let loud = |second: usize| audio[second * 16_000 + 3200..][..9600].iter().any(|both| both.0.abs() > 1000);
    assert_eq!([loud(0), loud(1), loud(2), loud(3)], [true, true, false, true]);
}

#[test]
fn frames_that_are_missing_are_silence_and_counted_and_a_pause_is_silence() {
    let folder = tempfile::tempdir().expect("a folder");
    let house = start(folder.path(), keys(1), true);
    let line = Line::default();
    line.say(0, 50);
    line.say(100, 50);
    let paused = house.record(&line);
    line.taken();
    paused.store(true, Ordering::Relaxed);
    line.say(150, 50);
    line.hang_up();
    let told = house.told(2);
    assert_eq!((told[1].frames, told[1].lost), (200, 50));
    let audio = house.wav();
    let loud = |second: usize| audio[second * 16_000 + 3200..][..9600].iter().any(|both| both.1.abs() > 1000);
    assert_eq!([loud(0), loud(1), loud(2), loud(3)], [true, false, true, false]);
}

#[test]
fn a_call_that_is_forgotten_leaves_no_file_and_a_call_that_was_erased_begins_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let house = start(folder.path(), keys(1), true);
    let line = Line::default();
    house.record(&line);
    line.say(0, 100);
    house.told(1);
    assert_eq!(house.recorder.handle().forget(vec![CALL, CallId(9)]).expect("removed"), 1);
    line.say(100, 100);
    line.hang_up();
    drop(house);
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);

    let house = start(folder.path(), keys(1), false);
    let line = Line::default();
    line.say(0, 100);
    house.record(&line);
    drop(house);
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
}

#[test]
fn a_disk_that_fails_costs_audio_and_is_tried_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let blocked = folder.path().join("recordings");
    fs::write(&blocked, "a file where the folder should be").expect("written");
    let house = start(&blocked, keys(1), true);
    let line = Line::default();
    house.record(&line);
    line.say(0, 50);
    line.taken();
    fs::remove_file(&blocked).expect("removed");
    house.clock.advance(Duration::from_secs(11));
    line.say(50, 50);
    line.hang_up();
    let told = house.told(2);
    assert_eq!((told[1].part, told[1].frames, told[1].lost), (1, 50, 0));
}
