//! Japanese in; phonemes out, a space between words. The program `mecab`, kept running, cuts a line into words and says how
//! each is pronounced, in katakana. Never here: digits, punctuation, Latin letters.

use std::path::Path;

use crate::voice::child::Child;
use crate::voice::espeak::EspeakError;

pub(super) struct Japanese {
    mecab: Option<Child>,
}

/// How much of what mecab says of a word is wanted: the surface, the part of speech and its kind, the pronunciation.
const FORMAT: &str = "%m\\t%f[0]\\t%f[1]\\t%f[8]\\n";
const UNKNOWN: &str = "%m\\t%f[0]\\t%f[1]\\t%m\\n";
const END: &str = "EOS";

/// A word as mecab cuts it.
struct Word {
    surface: String,
    /// In katakana.
    said: String,
    /// Goes on with the word before it.
    joined: bool,
}

/// Single kana, and those that a small one changes.
#[rustfmt::skip]
const KANA: [(&str, &str); 163] = [
    ("ァ", "a"), ("ア", "a"), ("ィ", "i"), ("イ", "i"), ("ゥ", "ɯ"), ("ウ", "ɯ"), ("ェ", "e"), ("エ", "e"), ("ォ", "o"),
    ("オ", "o"), ("カ", "ka"), ("ガ", "ɡa"), ("キ", "kʲi"), ("ギ", "ɡʲi"), ("ク", "kɯ"), ("グ", "ɡɯ"), ("ケ", "ke"),
    ("ゲ", "ɡe"), ("コ", "ko"), ("ゴ", "ɡo"), ("サ", "sa"), ("ザ", "ʣa"), ("シ", "ɕi"), ("ジ", "ʥi"), ("ス", "sɨ"),
    ("ズ", "zɨ"), ("セ", "se"), ("ゼ", "ʣe"), ("ソ", "so"), ("ゾ", "ʣo"), ("タ", "ta"), ("ダ", "da"), ("チ", "ʨi"),
    ("ヂ", "ʥi"), ("ツ", "ʦɨ"), ("ヅ", "zɨ"), ("テ", "te"), ("デ", "de"), ("ト", "to"), ("ド", "do"), ("ナ", "na"),
    ("ニ", "ɲi"), ("ヌ", "nɯ"), ("ネ", "ne"), ("ノ", "no"), ("ハ", "ha"), ("バ", "ba"), ("パ", "pa"), ("ヒ", "çi"),
    ("ビ", "bʲi"), ("ピ", "pʲi"), ("フ", "ɸɯ"), ("ブ", "bɯ"), ("プ", "pɯ"), ("ヘ", "he"), ("ベ", "be"), ("ペ", "pe"),
    ("ホ", "ho"), ("ボ", "bo"), ("ポ", "po"), ("マ", "ma"), ("ミ", "mʲi"), ("ム", "mɯ"), ("メ", "me"), ("モ", "mo"),
    ("ャ", "ja"), ("ヤ", "ja"), ("ュ", "jɯ"), ("ユ", "jɯ"), ("ョ", "jo"), ("ヨ", "jo"), ("ラ", "ɾa"), ("リ", "ɾʲi"),
    ("ル", "ɾɯ"), ("レ", "ɾe"), ("ロ", "ɾo"), ("ヮ", "βa"), ("ワ", "βa"), ("ヰ", "i"), ("ヱ", "e"), ("ヲ", "o"),
    ("ヴ", "vɯ"), ("ヵ", "ka"), ("ヶ", "ke"), ("ッ", "ʔ"), ("ン", "ɴ"), ("ー", "ː"), ("イェ", "je"), ("ウィ", "βi"),
    ("ウェ", "βe"), ("ウォ", "βo"), ("キェ", "kʲe"), ("キャ", "kʲa"), ("キュ", "kʲɨ"), ("キョ", "kʲo"), ("ギャ", "ɡʲa"),
    ("ギュ", "ɡʲɨ"), ("ギョ", "ɡʲo"), ("クァ", "kᵝa"), ("クィ", "kᵝi"), ("クェ", "kᵝe"), ("クォ", "kᵝo"), ("グァ", "ɡᵝa"),
    ("グィ", "ɡᵝi"), ("グェ", "ɡᵝe"), ("グォ", "ɡᵝo"), ("シェ", "ɕe"), ("シャ", "ɕa"), ("シュ", "ɕɨ"), ("ショ", "ɕo"),
    ("ジェ", "ʥe"), ("ジャ", "ʥa"), ("ジュ", "ʥɨ"), ("ジョ", "ʥo"), ("チェ", "ʨe"), ("チャ", "ʨa"), ("チュ", "ʨɨ"),
    ("チョ", "ʨo"), ("ヂャ", "ʥa"), ("ヂュ", "ʥɨ"), ("ヂョ", "ʥo"), ("ツァ", "ʦa"), ("ツィ", "ʦʲi"), ("ツェ", "ʦe"),
    ("ツォ", "ʦo"), ("ティ", "tʲi"), ("テュ", "tʲɨ"), ("ディ", "dʲi"), ("デュ", "dʲɨ"), ("トゥ", "tɯ"), ("ドゥ", "dɯ"),
    ("ニェ", "ɲe"), ("ニャ", "ɲa"), ("ニュ", "ɲɨ"), ("ニョ", "ɲo"), ("ヒェ", "çe"), ("ヒャ", "ça"), ("ヒュ", "çɨ"),
    ("ヒョ", "ço"), ("ビャ", "bʲa"), ("ビュ", "bʲɨ"), ("ビョ", "bʲo"), ("ピャ", "pʲa"), ("ピュ", "pʲɨ"), ("ピョ", "pʲo"),
    ("ファ", "ɸa"), ("フィ", "ɸʲi"), ("フェ", "ɸe"), ("フォ", "ɸo"), ("フュ", "ɸʲɨ"), ("フョ", "ɸʲo"), ("ミャ", "mʲa"),
    ("ミュ", "mʲɨ"), ("ミョ", "mʲo"), ("リャ", "ɾʲa"), ("リュ", "ɾʲɨ"), ("リョ", "ɾʲo"), ("ヴァ", "va"), ("ヴィ", "vʲi"),
    ("ヴェ", "ve"), ("ヴォ", "vo"), ("ヴュ", "bʲɨ"), ("ヴョ", "bʲo"),
];

impl Japanese {
    pub(super) fn start() -> Result<Self, EspeakError> {
        let mut japanese = Self { mecab: Some(spawn()?) };
        japanese.words("あ")?;
        Ok(japanese)
    }

    pub(super) fn phonemes(&mut self, text: &str) -> Result<String, EspeakError> {
        let words = match self.words(text) {
            Ok(words) => words,
            Err(_) => {
                tracing::warn!("mecab is gone: starting it again");
                self.words(text)?
            }
        };
        let mut out = String::new();
        let mut said = words.into_iter().peekable();
        while let Some(mut word) = said.next() {
            let mut last = word.surface.clone();
            while let Some(more) = said.next_if(|more| more.joined || goes_on(&last, &more.surface)) {
                word.said.push_str(&more.said);
                last = more.surface;
            }
            // Before a sound of the tongue's tip.
            let tip = |next: &Word| next.said.starts_with(['タ', 'テ', 'ト', 'ダ', 'デ', 'ド', 'ナ', 'ノ']);
            if word.surface == "何" && said.peek().is_some_and(tip) {
                word.said = "ナン".into();
            }
            let phonemes = spoken(&word.said);
            // A stop is between two sounds of one word, wherever it was cut.
            if !(out.is_empty() || phonemes.is_empty() || out.ends_with('ʔ') || phonemes.starts_with('ʔ')) {
                out.push(' ');
            }
            out.push_str(&phonemes);
        }
        Ok(out)
    }

    fn words(&mut self, text: &str) -> Result<Vec<Word>, EspeakError> {
        // Kept only if it has said all: what comes too late would be taken for the answer to what is asked next.
        let mut mecab = match self.mecab.take() {
            Some(mecab) => mecab,
            None => spawn()?,
        };
        mecab.write(&format!("{text}\n"))?;
        let mut words = Vec::new();
        loop {
            let line = mecab.read()?;
            if line == END {
                self.mecab = Some(mecab);
                return Ok(words);
            }
            words.extend(word(&line));
        }
    }
}

/// What is written as one word, though it is cut.
fn goes_on(word: &str, next: &str) -> bool {
    matches!((word, next), ("まし", "た") | ("い", "ます" | "まし" | "ませ") | ("だっ" | "かっ", "た"))
}

fn spawn() -> Result<Child, EspeakError> {
    let formats = [format!("--node-format={FORMAT}"), format!("--unk-format={UNKNOWN}")];
    let end = format!("--eos-format={END}\\n");
    // Where there is none of these it is the dictionary that mecab knows of.
    let dictionary = DICTIONARIES.iter().find(|folder| Path::new(folder).is_dir());
    let mut arguments: Vec<&str> = dictionary.iter().flat_map(|folder| ["-d", folder]).collect();
    arguments.extend([formats[0].as_str(), &formats[1], &end]);
    Child::start(Path::new("mecab"), &arguments)
}

/// Where Debian and Fedora have it. The default may be another, whose columns mean something else.
const DICTIONARIES: [&str; 3] =
    ["/var/lib/mecab/dic/ipadic-utf8", "/usr/lib64/mecab/dic/ipadic", "/usr/lib/mecab/dic/ipadic"];

/// Of a line: surface, part of speech, its kind, pronunciation.
fn word(line: &str) -> Option<Word> {
    let mut columns = line.split('\t');
    let (surface, part, kind) = (columns.next()?, columns.next()?, columns.next()?);
    let said = columns.next().filter(|said| *said != "*").unwrap_or(surface);
    let mut said: String = said.chars().map(katakana).collect();
    // Where nothing is inflected, it is one long vowel.
    if matches!(part, "名詞" | "副詞" | "接頭詞") {
        said = lengthened(&said);
    }
    if part == "形容詞" && said.ends_with("シイ") {
        said.pop();
        said.push('ー');
    }
    let joined = match part {
        "助動詞" => matches!(surface, "う" | "ん"),
        "助詞" => kind == "接続助詞" && matches!(surface, "て" | "で"),
        _ => false,
    };
    if joined && surface == "う" {
        said = "ー".into();
    }
    Some(Word { surface: surface.to_owned(), said, joined })
}

/// センセイ is said センセー.
fn lengthened(said: &str) -> String {
    const E: &str = "エケゲセゼテデネヘベペメレェ";
    let mut out = String::new();
    for c in said.chars() {
        let long = c == 'イ' && out.chars().next_back().is_some_and(|before| E.contains(before));
        out.push(if long { 'ー' } else { c });
    }
    out
}

fn katakana(c: char) -> char {
    match c {
        'ぁ'..='ゖ' => char::from_u32(u32::from(c) + 0x60).unwrap_or(c),
        c => c,
    }
}

/// The phonemes of a word in katakana.
fn spoken(word: &str) -> String {
    let find = |kana: &str| KANA.iter().find(|(known, _)| *known == kana).map(|(_, said)| *said);
    let mut moras: Vec<&str> = Vec::new();
    let mut rest = word;
    while let Some(first) = rest.chars().next() {
        let both = rest.chars().nth(1).and_then(|second| rest.get(..first.len_utf8() + second.len_utf8()));
        let (kana, said) = match both.and_then(|both| Some((both, find(both)?))) {
            Some((both, said)) => (both, Some(said)),
            None => {
                let one = rest.get(..first.len_utf8()).unwrap_or(rest);
                (one, find(one))
            }
        };
        moras.extend(said);
        rest = rest.strip_prefix(kana).unwrap_or_default();
    }
    let mut out = String::new();
    for (at, mora) in moras.iter().enumerate() {
        // A syllabic n takes the place of what follows it.
        let next = moras.get(at + 1).and_then(|next| next.chars().next());
        out.push_str(match (*mora, next) {
            ("ɴ", Some('m' | 'p' | 'b')) => "m",
            ("ɴ", Some('k' | 'ɡ')) => "ŋ",
            ("ɴ", Some('ɲ' | 'ʨ' | 'ʥ')) => "ɲ",
            ("ɴ", Some('n' | 't' | 'd' | 'ɾ' | 'z')) => "n",
            (mora, _) => mora,
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kana_sound_as_the_network_was_trained() {
        for (kana, wanted) in [
            ("コンニチワ", "koɲɲiʨiβa"),
            ("ガッコー", "ɡaʔkoː"),
            ("シンブン", "ɕimbɯɴ"),
            ("キュウリ", "kʲɨɯɾʲi"),
            ("フォーク", "ɸoːkɯ"),
            ("漢", ""),
        ] {
            assert_eq!(spoken(kana), wanted, "{kana}");
        }
    }
}
