//! What a question says, as far as words tell: whether two of them may have the same answer, however alike they look.
//!
//! Enters: a caller's words, or a question whose answer is known. Leaves: a [`Reading`]; of two readings, how far apart
//! they are, or what makes them different. Never here: a vector, an answer. A vector says that "open on Sunday" and "open
//! on Monday" are nearly the same; this room says that they are not.

mod lexicon;
mod words;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::LazyLock;

use lexicon::{CONTRASTS, DATES, GOING_ON, HOUSES, IDLE, LEANING, MEASURES, NEGATIONS, PARTICLES, SAME};
use words::{Word, concept, words};

/// What a question wants to know.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// Yes or no.
    Whether,
    /// A time, or hours.
    When,
    /// A place.
    Where,
    /// A person.
    Who,
    /// A reason.
    Why,
    /// A price.
    Price,
    /// A number of things.
    Count,
    /// How long it takes or lasts.
    Duration,
    /// How to do it.
    How,
    /// How it is: how far, how old, how fast.
    Degree,
    /// A thing or a name.
    What,
    /// No question: a wish, or a statement.
    Statement,
}

/// Why two questions cannot have the same answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Difference {
    /// A number, an amount, a clock time.
    Number,
    /// A day, a month, a part of the day.
    Date,
    /// One of them denies.
    Negation,
    /// One says the opposite of the other, or another of several that exclude each other.
    Contrast,
    /// A name.
    Name,
    /// They ask for other things: when and where.
    Kind,
    /// One goes where the other comes from.
    Direction,
    /// One asks what must be, the other what may be, or who of the two does it.
    Mode,
    /// One speaks of something that the other does not.
    Subject,
}

impl Difference {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Number,
        Self::Date,
        Self::Negation,
        Self::Contrast,
        Self::Name,
        Self::Kind,
        Self::Direction,
        Self::Mode,
        Self::Subject,
    ];

    /// A word for metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Number => "number",
            Self::Date => "date",
            Self::Negation => "negation",
            Self::Contrast => "contrast",
            Self::Name => "name",
            Self::Kind => "kind",
            Self::Direction => "direction",
            Self::Mode => "mode",
            Self::Subject => "subject",
        }
    }
}

/// How far apart two questions are that may have the same answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Distance {
    /// They speak of the same things.
    Same,
    /// One speaks of one thing more.
    OneMore,
}

/// A question, read.
#[derive(Clone, PartialEq, Eq)]
pub struct Reading {
    exact: String,
    kind: Kind,
    numbers: BTreeSet<String>,
    dates: BTreeSet<String>,
    denials: Vec<String>,
    names: BTreeSet<String>,
    contrasts: BTreeSet<(usize, usize)>,
    content: BTreeSet<String>,
    from: BTreeSet<String>,
    to: BTreeSet<String>,
    obliged: bool,
    asks_for: Option<Actor>,
    leans: bool,
}

/// Who is to do what is asked about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Actor {
    Caller,
    House,
}

/// Prints no words.
impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading").field("kind", &self.kind).field("leans", &self.leans).finish_non_exhaustive()
    }
}

/// Words by which a business calls itself, taken from the text that says who it is.
#[must_use]
pub fn own_names(persona: &str) -> BTreeSet<String> {
    let said: BTreeSet<String> = words(persona).into_iter().map(|word| word.plain).collect();
    HOUSES.iter().filter(|house| said.contains(**house)).map(|house| concept(house)).collect()
}

/// A bound in time, a contrast to having none.
const UNTIL: (usize, usize) = (usize::MAX, 0);

struct Lists {
    idle: HashSet<String>,
    /// Words that are no names, however they are written.
    known: HashSet<String>,
    /// To make an appointment is what one does with it when nothing else is said.
    usual: Vec<(usize, usize)>,
    contrasts: HashMap<String, Vec<(usize, usize)>>,
}

static LISTS: LazyLock<Lists> = LazyLock::new(|| {
    let mut contrasts: HashMap<String, Vec<(usize, usize)>> = HashMap::new();
    for (class, members) in CONTRASTS.iter().enumerate() {
        for (member, names) in members.iter().enumerate() {
            names.iter().for_each(|name| contrasts.entry(concept(name)).or_default().push((class, member)));
        }
    }
    let usual = contrasts.get(&concept("make")).cloned().unwrap_or_default();
    let known = contrasts.keys().cloned().chain(SAME.iter().flat_map(|group| group.iter().map(|word| concept(word))));
    Lists { idle: IDLE.iter().map(|word| concept(word)).collect(), known: known.collect(), usual, contrasts }
});

impl Reading {
    /// Reads a question. `own`: see [`own_names`].
    #[must_use]
    pub fn of(text: &str, own: &BTreeSet<String>) -> Self {
        let all = words(text);
        let exact = all.iter().map(|word| word.plain.as_str()).collect::<Vec<_>>().join(" ");
        let (said, went_on, whether) = without_manners(&all);
        let kind = if whether { Kind::Whether } else { kind(said) };
        let lists = &*LISTS;
        let mut reading = Self {
            exact,
            kind,
            numbers: BTreeSet::new(),
            dates: BTreeSet::new(),
            denials: Vec::new(),
            names: BTreeSet::new(),
            contrasts: BTreeSet::new(),
            content: BTreeSet::new(),
            from: BTreeSet::new(),
            to: BTreeSet::new(),
            obliged: false,
            asks_for: actor(said),
            leans: went_on,
        };
        for (at, word) in said.iter().enumerate() {
            let before = at.checked_sub(1).map_or("", |at| said[at].plain.as_str());
            let after = said.get(at + 1).map_or("", |word| word.plain.as_str());
            let plain = word.plain.as_str();
            if let Some(number) = word.number() {
                reading.numbers.insert(number.to_owned());
                continue;
            }
            if NEGATIONS.contains(&plain) || plain == "without" {
                reading.denials.push(if plain == "without" { plain.to_owned() } else { "not".to_owned() });
                continue;
            }
            if is_date(plain, before, after) {
                // A plural is no other day.
                reading.dates.insert(word.concept.clone());
            }
            if matches!(plain, "must" | "should" | "required" | "necessary" | "need")
                || (plain == "have" && after == "to")
            {
                reading.obliged = true;
            }
            if leans(said, at, kind) {
                reading.leans = true;
            }
            let asked_for = match kind {
                Kind::When => matches!(word.concept.as_str(), "tim" | "time" | "hour" | "start" | "begin" | "o'clock"),
                Kind::Price => matches!(word.concept.as_str(), "fee" | "much" | "pay" | "expens"),
                Kind::Duration => {
                    matches!(word.concept.as_str(), "tim" | "time" | "accept" | "last" | "take" | "long" | "wait")
                }
                Kind::Where => matches!(word.concept.as_str(), "address" | "plac" | "find"),
                Kind::Count => matches!(word.concept.as_str(), "maximum" | "number" | "accept" | "limit"),
                Kind::Who => matches!(word.concept.as_str(), "person"),
                Kind::Degree => matches!(word.concept.as_str(), "age" | "old"),
                _ => false,
            };
            // What the kind says already is not said again; what tells opposites apart is.
            if !asked_for || word.concept == "last" {
                // "Over the phone" is not above anything.
                let level = matches!(plain, "over" | "under") && !after.starts_with(|c: char| c.is_ascii_digit());
                let sides = lists.contrasts.get(&word.concept).filter(|_| !level);
                reading.contrasts.extend(sides.into_iter().flatten());
                if word.concept == "until" || plain == "by" && matches!(after, "when" | "what" | "which") {
                    reading.contrasts.insert(UNTIL);
                }
            }
            let idle = lists.idle.contains(&word.concept) || own.contains(&word.concept);
            if word.capital
                && !idle
                && !lists.known.contains(&word.concept)
                && !reading.dates.contains(&word.concept)
                && !titled(plain)
            {
                reading.names.insert(plain.to_owned());
            }
            // "Moving in" is not "moving out"; "in the house" is where.
            let particle =
                PARTICLES.contains(&plain) && (word.last || matches!(plain, "out" | "off" | "away" | "back"));
            if particle || !idle && !asked_for {
                reading.content.insert(word.concept.clone());
            }
            for (way, places) in [("from", &mut reading.from), ("to", &mut reading.to)] {
                let article = |word: &str| matches!(word, "the" | "a" | "an" | "your" | "my" | "our");
                let second = at.checked_sub(2).map_or("", |at| said[at].plain.as_str());
                if before == way && plain == "you" || article(before) && second == way {
                    let house = plain == "you" || own.contains(&word.concept);
                    places.insert(if house { String::new() } else { word.concept.clone() });
                }
            }
        }
        // One leaves until a time, whether one says so or not.
        if reading.content.contains("checkout") {
            reading.contrasts.remove(&UNTIL);
        }
        // "A name" needs no capital after a title.
        for pair in said.windows(2) {
            if titled(&pair[0].plain) && !pair[1].plain.is_empty() {
                reading.names.insert(pair[1].plain.clone());
            }
        }
        reading.denials.sort();
        // What is left of "Yes, please." or "And then?" asks nothing.
        let says_something = !reading.content.is_empty() || !reading.dates.is_empty() || !reading.numbers.is_empty();
        let asks_something = !reading.content.is_empty() || (kind != Kind::Statement && refers_to_house(said, own));
        if !says_something && !refers_to_house(said, own)
            || !asks_something
            || kind == Kind::Statement && !is_sentence(said)
        {
            reading.leans = true;
        }
        reading
    }

    /// The question in the form in which the same question is always the same.
    #[must_use]
    pub fn exact(&self) -> &str {
        &self.exact
    }

    /// What it wants to know.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether it means something only after what was said before.
    #[must_use]
    pub const fn leans(&self) -> bool {
        self.leans
    }

    /// Whether it holds what may be a person's own: a name, or a number that is no small count.
    #[must_use]
    pub fn is_personal(&self) -> bool {
        let long = |number: &String| number.chars().filter(char::is_ascii_digit).count() >= 4;
        !self.names.is_empty() || self.numbers.iter().any(long) || self.exact.contains("my name is")
    }

    /// How far apart two questions are.
    ///
    /// # Errors
    /// The first thing in which they differ so that they cannot have the same answer.
    pub fn compare(&self, other: &Self) -> Result<Distance, Difference> {
        let same = [
            (self.numbers == other.numbers, Difference::Number),
            (self.dates == other.dates, Difference::Date),
            (self.denials == other.denials, Difference::Negation),
            (same_sides(&self.contrasts, &other.contrasts), Difference::Contrast),
            (self.names == other.names, Difference::Name),
            (self.same_kind(other), Difference::Kind),
            (self.from.is_disjoint(&other.to) && self.to.is_disjoint(&other.from), Difference::Direction),
            (self.kind != Kind::Whether || self.obliged == other.obliged, Difference::Mode),
            (self.asks_for.is_none() || other.asks_for.is_none() || self.asks_for == other.asks_for, Difference::Mode),
        ];
        if let Some((_, difference)) = same.into_iter().find(|(same, _)| !same) {
            return Err(difference);
        }
        match self.content.symmetric_difference(&other.content).count() {
            0 => Ok(Distance::Same),
            1 if !self.content.is_empty() && !other.content.is_empty() => Ok(Distance::OneMore),
            _ => Err(Difference::Subject),
        }
    }
}

/// Whether two questions are on the same side of everything that has sides.
fn same_sides(ours: &BTreeSet<(usize, usize)>, theirs: &BTreeSet<(usize, usize)>) -> bool {
    let more = |a: &BTreeSet<(usize, usize)>, b: &BTreeSet<(usize, usize)>| {
        a.difference(b).all(|side| LISTS.usual.contains(side) && b.iter().all(|(class, _)| *class != side.0))
    };
    more(ours, theirs) && more(theirs, ours)
}

impl Reading {
    /// "What is the deposit" asks how much it is.
    fn same_kind(&self, other: &Self) -> bool {
        let measures = |kind| matches!(kind, Kind::Price | Kind::Duration | Kind::Count | Kind::Degree);
        let measured = || self.content.iter().any(|word| MEASURES.iter().any(|measure| concept(measure) == *word));
        self.kind == other.kind
            || self.content == other.content
                && measured()
                && (self.kind == Kind::What && measures(other.kind) || measures(self.kind) && other.kind == Kind::What)
    }
}

fn titled(word: &str) -> bool {
    matches!(word, "mr" | "mrs" | "ms" | "miss" | "mister" | "missus" | "dr" | "doctor" | "professor" | "nurse")
}

fn is_date(word: &str, before: &str, after: &str) -> bool {
    match word {
        // "May I" is no month; "may" and "march" are where a date is meant.
        "may" => {
            matches!(before, "in" | "of" | "until" | "since" | "next" | "last" | "this" | "by")
                || after.starts_with(|c: char| c.is_ascii_digit())
        }
        "night" => matches!(before, "at" | "during" | "the" | "late") || DATES.contains(&before),
        "am" => before.starts_with(|c: char| c.is_ascii_digit()),
        "daily" => false,
        word => DATES.contains(&word) || word.strip_suffix('s').is_some_and(|word| DATES.contains(&word)),
    }
}

/// Without greetings, thanks and the frame of a polite question at the beginning; whether the caller goes on with what
/// was said; whether the frame asks for yes or no.
fn without_manners(all: &[Word]) -> (&[Word], bool, bool) {
    const FRAMES: [&[&str]; 30] = [
        &["hi"],
        &["hello"],
        &["hey"],
        &["good", "morning"],
        &["good", "afternoon"],
        &["good", "evening"],
        &["good", "day"],
        &["please"],
        &["excuse", "me"],
        &["sorry"],
        &["thanks"],
        &["thank", "you"],
        &["can", "you", "tell", "me"],
        &["could", "you", "tell", "me"],
        &["can", "you", "please", "tell", "me"],
        &["could", "you", "please", "tell", "me"],
        &["tell", "me"],
        &["please", "tell", "me"],
        &["do", "you", "know"],
        &["may", "i", "ask"],
        &["can", "i", "ask"],
        &["i", "want", "to", "know"],
        &["i", "would", "like", "to", "know"],
        &["i", "was", "wondering"],
        &["i", "am", "wondering"],
        &["i", "wonder"],
        &["i", "would", "like", "to", "ask"],
        &["i", "have", "a", "question"],
        &["would", "you", "tell", "me"],
        &["can", "you", "give", "me"],
    ];
    let mut rest = all;
    let (mut went_on, mut whether) = (false, false);
    loop {
        let frame = FRAMES.iter().filter(|frame| {
            rest.len() >= frame.len() && frame.iter().zip(rest).all(|(word, said)| *word == said.plain)
        });
        if let Some(frame) = frame.max_by_key(|frame| frame.len()) {
            rest = &rest[frame.len()..];
        } else if rest.first().is_some_and(|word| GOING_ON.contains(&word.plain.as_str())) {
            went_on = went_on || !matches!(rest[0].plain.as_str(), "okay" | "ok" | "well" | "sure");
            rest = &rest[1..];
        } else if rest.first().is_some_and(|word| matches!(word.plain.as_str(), "if" | "whether"))
            && rest.len() < all.len()
        {
            whether = true;
            rest = &rest[1..];
        } else {
            break;
        }
    }
    let about = |first: &str, second: &str| rest.len() >= 2 && rest[0].plain == first && rest[1].plain == second;
    (rest, went_on || about("what", "about") || about("how", "about"), whether)
}

/// What a question wants to know.
fn kind(said: &[Word]) -> Kind {
    let plain: Vec<&str> = said.iter().map(|word| word.plain.as_str()).collect();
    let at = |index: usize| plain.get(index).copied().unwrap_or("");
    let has = |word: &str| plain.contains(&word);
    let about = |concepts: &[&str]| said.iter().any(|word| concepts.contains(&word.concept.as_str()));
    let starts_with = if matches!(at(0), "at" | "from" | "until" | "till" | "by" | "for" | "to" | "on" | "in" | "since")
        && at(1).starts_with("wh")
        || matches!(at(0), "for") && at(1) == "how"
    {
        1
    } else {
        0
    };
    // "My card was stolen. What should I do?"
    let starts_with = match plain
        .iter()
        .position(|word| matches!(*word, "what" | "how" | "where" | "when" | "who" | "why" | "which"))
    {
        Some(later)
            if later > starts_with + 2
                && !is_auxiliary(at(0))
                && !matches!(at(0), "what" | "how" | "where" | "when" | "who" | "why" | "which") =>
        {
            later
        }
        _ => starts_with,
    };
    let (first, second) = (at(starts_with), at(starts_with + 1));
    let price = || about(&["fee"]) && !about(&["bill", "invoic", "interest"]);
    // "What should I do", "what do I have to do", "what do I do".
    let to_do = plain.windows(2).any(|two| matches!(two[0], "i" | "we" | "to") && two[1] == "do");
    match (first, second) {
        ("when", _) => Kind::When,
        ("where", _) => Kind::Where,
        ("who" | "whom" | "whose", _) => Kind::Who,
        ("why", _) => Kind::Why,
        ("how", "much") if has("time") => Kind::Duration,
        ("how", "much") if !about(&["fee"]) && about(&["withdraw", "cash"]) => Kind::Count,
        ("how", "much") => Kind::Price,
        ("how", "many") => Kind::Count,
        ("how", "long") => Kind::Duration,
        ("how", "soon") => Kind::When,
        ("how", "far" | "old" | "fast" | "often" | "deep" | "big" | "large" | "high" | "late" | "early" | "tall") => {
            if price() {
                Kind::Price
            } else {
                Kind::Degree
            }
        }
        ("how", _) => Kind::How,
        ("what" | "which", "age") => Kind::Degree,
        ("what" | "which", "time" | "hours" | "day" | "days" | "date" | "opening" | "closing") => Kind::When,
        ("what" | "which", _) => {
            let limit = about(&["limit", "maximum"]);
            if about(&["address"]) && !has("email") {
                Kind::Where
            } else if limit {
                Kind::Count
            } else if about(&["interest"]) {
                Kind::Degree
            } else if price() {
                Kind::Price
            } else if about(&["hour"]) || has("time") && !has("limit") {
                Kind::When
            } else if to_do || plain.windows(2).any(|two| two == ["way", "from"] || two == ["way", "to"]) {
                Kind::How
            } else {
                Kind::What
            }
        }
        (first, _) if is_auxiliary(first) => Kind::Whether,
        // "Can you tell me your opening hours"
        ("your" | "the", _) if about(&["address"]) && !has("email") => Kind::Where,
        ("your" | "the", _) if about(&["hour"]) => Kind::When,
        ("your" | "the" | "a", _) if price() => Kind::Price,
        _ => Kind::Statement,
    }
}

fn is_auxiliary(word: &str) -> bool {
    matches!(
        word,
        "is" | "are"
            | "am"
            | "was"
            | "were"
            | "do"
            | "does"
            | "did"
            | "have"
            | "has"
            | "had"
            | "can"
            | "could"
            | "will"
            | "would"
            | "shall"
            | "should"
            | "may"
            | "might"
            | "must"
    )
}

/// Who is to do it, if the question begins with "can I" or "can you".
fn actor(said: &[Word]) -> Option<Actor> {
    let [first, second, ..] = said else { return None };
    match (first.plain.as_str(), second.plain.as_str()) {
        ("can" | "could" | "may" | "will" | "must" | "should" | "shall", "i" | "we") => Some(Actor::Caller),
        ("can" | "could" | "will" | "must" | "should", "you") => Some(Actor::House),
        _ => None,
    }
}

/// Whether the word at this place points back at something that was said before.
fn leans(said: &[Word], at: usize, kind: Kind) -> bool {
    let word = |offset: usize| said.get(at + offset).map_or("", |word| word.plain.as_str());
    let before = |back: usize| at.checked_sub(back).map_or("", |at| said[at].plain.as_str());
    if !LEANING.contains(&word(0)) {
        return false;
    }
    match word(0) {
        // "Is it possible", "does it take", "what time is it", "what does it cost to": it points forwards.
        "it" => {
            let forwards = matches!(
                word(1),
                "possible" | "okay" | "ok" | "allowed" | "necessary" | "required" | "true" | "fine" | "far" | "free"
            ) || (matches!(word(1), "take" | "cost")
                && said.iter().skip(at).any(|word| word.plain == "to"))
                || (matches!(before(1), "is" | "does")
                    && said.iter().skip(at + 2).any(|word| matches!(word.plain.as_str(), "to" | "for" | "from"))
                    && kind != Kind::Statement);
            !forwards
        }
        // "Is there a pool", "are there rooms", "there is no power".
        "there" => {
            let exists = matches!(before(1), "is" | "are" | "was" | "were" | "will")
                && (at <= 3 || kind != Kind::Statement)
                && (at + 1 < said.len() && !matches!(word(1), "on" | "at" | "in" | "today" | "tomorrow")
                    || !matches!(kind, Kind::Whether | Kind::Statement))
                || matches!(word(1), "is" | "are" | "was" | "were");
            !(exists || titled_before(said, at))
        }
        // "The same day", "so that"; "that" that joins two sentences: "I know that", "books that I".
        "that" => {
            !matches!(before(1), "so" | "know" | "sure" | "card" | "book" | "books" | "appointment")
                && !matches!(word(1), "i" | "is" | "are" | "you")
        }
        "their" | "they" | "them" => {
            // Somebody in the same sentence whom they may be.
            !said
                .iter()
                .take(at)
                .any(|word| matches!(word.concept.as_str(), "child" | "person" | "dog" | "patient" | "book"))
        }
        "so" => before(1) != "do" && at == 0,
        "then" => at == 0 || at + 1 == said.len(),
        "also" | "too" | "either" | "again" | "still" | "such" | "same" => {
            word(0) == "same" || at + 1 == said.len() && matches!(word(0), "too" | "either")
        }
        _ => true,
    }
}

/// "Is Doctor Miller there on Thursday?"
fn titled_before(said: &[Word], at: usize) -> bool {
    said.iter().take(at).any(|word| titled(&word.plain))
}

/// Whether a question that speaks of nothing else asks for the business itself: "Where are you?"
fn refers_to_house(said: &[Word], own: &BTreeSet<String>) -> bool {
    said.iter().any(|word| matches!(word.plain.as_str(), "you" | "your") || own.contains(&word.concept))
}

/// Whether what is no question says something that could be answered: "I want to cancel my appointment."
fn is_sentence(said: &[Word]) -> bool {
    let subject = |word: &Word| matches!(word.plain.as_str(), "i" | "we" | "my" | "our" | "there" | "your");
    said.len() >= 4 && said.first().is_some_and(subject)
}
