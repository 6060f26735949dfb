//! The cache without an engine: what the words alone decide, what counts when, what is kept. What meaning decides is
//! measured with the real embedder: `benches/src/bin/cache.rs`, `tests/scenarios/cache.rs`.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde::Deserialize;

use super::reading::{Difference, Distance, Reading, own_names};
use super::vectors::{Packed, Vectors, WIDTH};
use super::*;
use crate::base::{CallId, ManualClock, Origin};

#[derive(Deserialize)]
struct Labelled {
    question: Vec<Question>,
}

#[derive(Deserialize)]
struct Question {
    place: String,
    asked: String,
    same: Vec<String>,
    #[serde(default)]
    different: BTreeMap<String, Vec<String>>,
}

fn labelled() -> Labelled {
    toml::from_str(include_str!("../../../benches/cache/labelled.toml")).expect("the labelled set")
}

/// Whatever a vector says: what differs in a number, a day or a negation, or hangs on what was said before, is never the
/// same question.
#[test]
fn the_words_alone_tell_numbers_days_and_negations_apart() {
    let (mut pairs, mut wrong) = (0, Vec::new());
    for question in labelled().question {
        let own = own_names(&question.place);
        let known = Reading::of(&question.asked, &own);
        for kind in ["number", "day", "negation", "context"] {
            for other in question.different.get(kind).into_iter().flatten() {
                pairs += 1;
                let asked = Reading::of(other, &own);
                if !asked.leans() && known.compare(&asked).is_ok() {
                    wrong.push(format!("{} | {other}", question.asked));
                }
            }
        }
    }
    assert!(pairs > 120, "{pairs}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn most_paraphrases_pass_the_guard() {
    let (mut all, mut passed) = (0, 0);
    for question in labelled().question {
        let own = own_names(&question.place);
        let known = Reading::of(&question.asked, &own);
        for other in &question.same {
            all += 1;
            let asked = Reading::of(other, &own);
            passed += u32::from(!asked.leans() && known.compare(&asked) == Ok(Distance::Same));
        }
    }
    assert!(all > 280 && passed * 10 >= all * 7, "{passed} of {all}");
}

#[test]
fn each_kind_of_difference_is_named() {
    let own = own_names("You are the desk of the hotel.");
    for (a, b, difference) in [
        ("Is there a room for 4?", "Is there a room for 14?", Difference::Number),
        ("Are you open at 7:30?", "Are you open at half past eight?", Difference::Number),
        ("Are you open on Sunday?", "Are you open on Monday?", Difference::Date),
        ("Can I pay by card?", "Can I not pay by card?", Difference::Negation),
        ("When do you open?", "When do you close?", Difference::Contrast),
        ("Is Doctor Miller in?", "Is Doctor Brown in?", Difference::Name),
        ("When is breakfast?", "Where is breakfast?", Difference::Kind),
        (
            "How do I get from the station to the hotel?",
            "How do I get from the hotel to the station?",
            Difference::Direction,
        ),
        ("Do I have to book a table?", "Can I book a table?", Difference::Mode),
        ("Is there a sauna with a bar?", "Is there a gym?", Difference::Subject),
    ] {
        let (a, b) = (Reading::of(a, &own), Reading::of(b, &own));
        assert_eq!((a.compare(&b), b.compare(&a)), (Err(difference), Err(difference)), "{} | {}", a.exact(), b.exact());
    }
    let same = |a: &str, b: &str| Reading::of(a, &own).compare(&Reading::of(b, &own));
    assert_eq!(same("Are you open at 7:30?", "Is the hotel open at half past seven?"), Ok(Distance::Same));
    assert_eq!(
        same("What does a room cost?", "Good morning, could you tell me how much a room is, please?"),
        Ok(Distance::Same)
    );
}

#[test]
fn what_hangs_on_the_conversation_leans() {
    let own = own_names("hotel");
    for text in [
        "",
        "...",
        "And on Sunday?",
        "How much is it?",
        "What about dinner?",
        "Yes, please.",
        "The second one.",
        "Is that free?",
        "Two nights.",
    ] {
        assert!(Reading::of(text, &own).leans(), "{text}");
    }
    for text in [
        "Is it possible to pay by card?",
        "Is there a pool?",
        "Where is the hotel?",
        "I want to cancel my booking.",
        "What time is breakfast?",
    ] {
        assert!(!Reading::of(text, &own).leans(), "{text}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_and_is_the_same_as_itself(text in "\\PC{0,80}", other in "[a-z0-9?' .:-]{0,60}") {
        let own = own_names("hotel");
        let (a, b) = (Reading::of(&text, &own), Reading::of(&other, &own));
        prop_assert_eq!(a.compare(&a), Ok(Distance::Same));
        prop_assert_eq!(a.compare(&b), b.compare(&a));
    }

    #[test]
    fn the_nearest_are_those_of_exact_sums(seed in 0_u64..1000, rows in 1_usize..60) {
        let vectors: Vec<Vec<f32>> = (0..rows as u64).map(|row| unit(seed * 1000 + row)).collect();
        let mut packed = Vectors::default();
        for vector in &vectors {
            packed.push(Packed::new(vector).as_ref());
        }
        let asked = unit(seed * 1000 + 999);
        let found = packed.nearest(&Packed::new(&asked).expect("a vector"), 5, -1.0);
        prop_assert_eq!(found.len(), rows.min(5));
        prop_assert!(found.windows(2).all(|two| two[0].1 >= two[1].1));
        let cosine = |row: usize| vectors[row].iter().zip(&asked).map(|(a, b)| a * b).sum::<f32>();
        for (row, score) in &found {
            prop_assert!((cosine(*row) - score).abs() < 0.005);
        }
        let best = (0..rows).map(cosine).fold(-1.0, f32::max);
        prop_assert!(best - cosine(found[0].0) < 0.005);
    }

    #[test]
    fn what_is_near_is_found_by_its_signs(seed in 0_u64..1000) {
        let asked = unit(seed);
        let mut packed = Vectors::default();
        let mut near = 0;
        for row in 0..200_u64 {
            let share = row as f32 / 200.0;
            let other = unit(seed * 1000 + row + 1);
            let mixed: Vec<f32> = asked.iter().zip(&other).map(|(a, b)| a * share + b * (1.0 - share)).collect();
            let length = mixed.iter().map(|number| number * number).sum::<f32>().sqrt();
            let mixed: Vec<f32> = mixed.into_iter().map(|number| number / length).collect();
            near += usize::from(asked.iter().zip(&mixed).map(|(a, b)| a * b).sum::<f32>() >= 0.6);
            packed.push(Packed::new(&mixed).as_ref());
        }
        let found = packed.nearest(&Packed::new(&asked).expect("a vector"), 200, 0.595);
        prop_assert!(near > 50 && found.len() >= near, "{} of {near}", found.len());
    }

    #[test]
    fn damaged_bytes_are_no_vector_and_no_audio(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        drop((Packed::from_bytes(&bytes), Clip::from_bytes(&bytes).map(|clip| clip.unpack())));
    }
}

/// A vector of length 1, another for each seed.
fn unit(seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let vector: Vec<f32> = std::iter::repeat_with(&mut next).take(WIDTH).collect();
    let length = vector.iter().map(|number| number * number).sum::<f32>().sqrt();
    vector.into_iter().map(|number| number / length).collect()
}

fn rules(agent: &str) -> Rules {
    Rules {
        agent: agent.into(),
        own: own_names("You are the desk of the hotel."),
        prompt: "p1".into(),
        mind: "m1".into(),
        voice: "joe".into(),
        speaker: None,
        threshold: 0.5,
        ttl: Duration::from_secs(3600),
        most: 3,
        learn: true,
        faq: vec![("When is breakfast?".into(), "From seven.".into())],
    }
}

fn begin(path: Option<std::path::PathBuf>, rules: Vec<Rules>) -> (Answers, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::default());
    let answers = Answers::begin(path, Arc::clone(&clock) as _).expect("a thread");
    answers.flush();
    answers.serve(rules);
    (answers, clock)
}

fn exact(answers: &Answers, words: &str) -> Option<Found> {
    match answers.look("desk", words, false) {
        Look::Found(found) => Some(found),
        _ => None,
    }
}

fn clause(text: &str) -> Clause {
    Clause { text: text.into(), frames: vec![[300; FRAME]; 10] }
}

fn teach(answers: &Answers, question: &str, answer: &str) -> Taught {
    answers.learn(&Teaching {
        call: CallId(7),
        agent: "desk",
        speaker: None,
        question,
        answer,
        clauses: vec![clause(answer)],
    })
}

#[test]
fn an_answer_is_found_by_its_words_and_by_its_meaning() {
    let (answers, _) = begin(None, vec![rules("desk")]);
    let found =
        exact(&answers, "Hi, when is breakfast").or_else(|| exact(&answers, "when is Breakfast?")).expect("known");
    assert_eq!((found.origin, found.answer.as_str(), found.score), (Origin::Faq, "From seven.", 1.0));
    let [(agent, id, _)] = &answers.to_embed(9)[..] else { panic!("one question has no vector") };
    answers.embedded(agent, *id, &unit(1));
    assert!(answers.to_embed(9).is_empty());

    let similar = |words: &str, vector: &[f32]| match answers.look("desk", words, false) {
        Look::Perhaps(reading) => answers.similar("desk", &reading, vector),
        _ => None,
    };
    assert!(similar("What time is breakfast served?", &unit(1)).is_some_and(|found| found.score > 0.99));
    assert_eq!(similar("What time is breakfast served?", &unit(2)), None, "it means something else");
    assert_eq!(similar("What time is breakfast on Sunday?", &unit(1)), None, "another day, however alike");
    assert_eq!(similar("What time is breakfast served?", &[f32::NAN; WIDTH]), None);
    assert!(matches!(answers.look("night", "When is breakfast?", false), Look::Nothing), "another agent");
    assert!(matches!(answers.look("desk", "And when is it?", false), Look::Nothing));
    assert!(
        matches!(answers.look("desk", "I want breakfast in bed.", true), Look::Nothing),
        "it answers a question of ours"
    );
}

#[test]
fn what_was_true_of_other_facts_answers_nothing() {
    let (answers, _) = begin(None, vec![rules("desk")]);
    let id = answers.add("desk", "Is there a sauna?", "Yes, in the cellar.").expect("added");
    assert_eq!(teach(&answers, "Is there a pool?", "Yes, on the roof."), Taught::Learned);
    assert!(exact(&answers, "Is there a sauna?").is_some() && exact(&answers, "Is there a pool?").is_some());

    answers.serve(vec![Rules { mind: "m2".into(), ..rules("desk") }]);
    assert!(exact(&answers, "Is there a sauna?").is_some(), "an operator's answer does not depend on the model");
    assert_eq!(exact(&answers, "Is there a pool?"), None);
    answers.serve(vec![Rules { prompt: "p2".into(), mind: "m2".into(), ..rules("desk") }]);
    assert_eq!(exact(&answers, "Is there a sauna?"), None);
    assert!(exact(&answers, "When is breakfast?").is_some(), "the file is read with the facts");
    let (_, counts, _) = answers.entry(id).expect("still listed");
    assert!(!counts);
    answers.add("desk", "Is there a sauna?", "Yes, on the roof.").expect("confirmed");
    assert_eq!(exact(&answers, "Is there a sauna?").expect("again").answer, "Yes, on the roof.");
    assert!(answers.entry(id).is_none(), "there is one answer");

    answers.serve(vec![Rules { learn: false, ..rules("desk") }]);
    assert_eq!(exact(&answers, "Is there a pool?"), None, "it may not learn any more");
    answers.serve(vec![Rules { faq: Vec::new(), ..rules("desk") }]);
    assert_eq!(exact(&answers, "When is breakfast?"), None, "the file does not say so any more");
}

#[test]
fn only_what_another_caller_may_hear_is_learned() {
    let (answers, clock) = begin(None, vec![rules("desk")]);
    for (question, answer) in [
        ("And on Sunday?", "Yes."),
        ("My name is Smith, is my room ready?", "Yes."),
        ("Is the room of Mr Smith ready?", "Yes."),
        ("Is room 2041 ready?", "Yes."),
        ("I want a taxi at eight.", "It is ordered."),
        ("Do you have a garage?", "I do not know, but I can take a message."),
        ("When is breakfast?", "At nine."),
    ] {
        assert_eq!(teach(&answers, question, answer), Taught::Declined, "{question}");
    }
    for question in ["Is there a pool?", "Is there a gym?", "Is there a bar?"] {
        assert_eq!(teach(&answers, question, "Yes."), Taught::Learned);
        clock.advance(Duration::from_secs(1));
    }
    answers.used("desk", exact(&answers, "Is there a pool?").expect("known").id);
    clock.advance(Duration::from_secs(1));
    assert_eq!(teach(&answers, "Is there a lift?", "Yes."), Taught::Learned);
    assert!(exact(&answers, "Is there a pool?").is_some() && exact(&answers, "Is there a lift?").is_some());
    assert_eq!(exact(&answers, "Is there a gym?"), None, "it was not used for longest");
    clock.advance(Duration::from_secs(3600));
    assert_eq!(exact(&answers, "Is there a lift?"), None, "its time is over");

    answers.serve(vec![Rules { learn: false, ..rules("desk") }]);
    assert_eq!(teach(&answers, "Is there a spa?", "Yes."), Taught::Declined);
}

#[test]
fn answers_vectors_and_audio_outlive_the_process() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("answers.db");
    {
        let (answers, _) = begin(Some(path.clone()), vec![rules("desk")]);
        answers.embeds_with("minilm");
        answers.add("desk", "Is there a sauna?", "Yes.").expect("added");
        for (agent, id, _) in answers.to_embed(9) {
            answers.embedded(&agent, id, &unit(id));
        }
        assert_eq!(answers.warm(None), 2);
        assert_eq!(answers.to_render(), Some(("desk".into(), None, "From seven.".into())));
        answers.keep_audio("desk", None, "From seven.", &[clause("From seven.")]);
        assert_eq!(answers.warm(None), 1);
        answers.used("desk", 1);
        answers.close();
    }
    let (answers, _) = begin(Some(path.clone()), vec![rules("desk")]);
    answers.flush();
    answers.embeds_with("minilm");
    assert!(answers.to_embed(9).is_empty());
    assert_eq!(answers.entries(None, None).len(), 2);
    assert_eq!(answers.entry(1).map(|(entry, ..)| entry.hits), Some(1));
    let audio = answers.audio("desk", None, "From seven.").expect("ready");
    assert_eq!((audio[0].text.as_str(), audio[0].frames.len()), ("From seven.", 10));
    assert_eq!(answers.audio("desk", None, "Yes."), None);
    let stats = answers.stats();
    assert_eq!((stats[0].faq, stats[0].added, stats[0].ready), (1, 1, 1));

    answers.serve(vec![Rules { voice: "amy".into(), ..rules("desk") }]);
    assert_eq!(answers.audio("desk", None, "From seven."), None, "another voice");
    let speaker = Some("ef_dora".to_owned());
    answers.serve(vec![Rules { voice: "joe ef_dora".into(), speaker, ..rules("desk") }]);
    answers.keep_audio("desk", None, "Yes.", &[clause("Yes.")]);
    assert_eq!(answers.audio("desk", Some("ef_dora"), "Yes."), None, "said by the agent of before");
    assert_eq!(answers.purge(None, Some(Origin::Added), None), 1);
    answers.close();
    let (answers, _) = begin(Some(path), vec![rules("desk")]);
    answers.flush();
    answers.embeds_with("other");
    assert_eq!((answers.entries(None, None).len(), answers.to_embed(9).len()), (1, 1), "vectors of another model");
}

#[test]
fn an_answer_that_waits_for_a_voice_of_before_keeps_no_other_from_being_rendered() {
    let (answers, _) = begin(None, vec![rules("desk")]);
    assert_eq!(answers.warm(None), 1);
    let other = Rules { faq: vec![("When is lunch?".into(), "At noon.".into())], ..rules("night") };
    answers.serve(vec![Rules { voice: "zoe".into(), ..rules("desk") }, other]);
    assert_eq!(answers.to_render(), None, "joe still speaks, and for another agent");
    assert_eq!(answers.warm(Some("desk")), 1);
    assert_eq!(answers.to_render(), Some(("desk".into(), None, "From seven.".into())));
}

#[test]
fn what_was_taken_out_is_not_in_the_file_any_more() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("answers.db");
    let holds = || String::from_utf8_lossy(&std::fs::read(&path).expect("a file")).contains("a sauna");
    for taken_out in [false, true] {
        let (answers, _) = begin(Some(path.clone()), vec![rules("desk")]);
        answers.flush();
        if taken_out {
            assert_eq!(answers.purge(None, Some(Origin::Added), None), 1);
        } else {
            answers.add("desk", "Is there a sauna?", "Yes.").expect("added");
        }
        answers.close();
        assert_eq!(holds(), !taken_out);
    }
}

#[test]
fn what_was_learned_in_a_call_is_forgotten_with_it_by_the_next_process_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("answers.db");
    let (answers, _) = begin(Some(path.clone()), vec![rules("desk")]);
    answers.add("desk", "Is there a sauna?", "Yes.").expect("added");
    assert_eq!(teach(&answers, "Is there a pool?", "Yes."), Taught::Learned);
    answers.close();
    let (answers, _) = begin(Some(path), vec![rules("desk")]);
    answers.flush();
    assert_eq!(answers.forget(&HashSet::from([CallId(8)])), 0);
    assert_eq!(answers.forget(&HashSet::from([CallId(7), CallId(8)])), 1);
    let left: Vec<Origin> = answers.entries(None, None).iter().map(|(entry, _)| entry.origin).collect();
    assert_eq!(left, [Origin::Faq, Origin::Added]);
}

#[test]
fn without_its_disk_it_works_in_memory() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("answers.db"), "no database, but some bytes that are long enough")
        .expect("written");
    for path in [folder.path().join("answers.db"), folder.path().join("nowhere/answers.db")] {
        let (answers, _) = begin(Some(path), vec![rules("desk")]);
        assert!(exact(&answers, "When is breakfast?").is_some());
        answers.close();
    }
}

#[test]
fn wrong_orders_are_one_sentence() {
    let (answers, _) = begin(None, vec![rules("desk")]);
    for (agent, question, answer, wanted) in [
        ("night", "Is there a pool?", "Yes.", "there is no agent `night`"),
        ("desk", "", "Yes.", "the question has 1 to 300 characters, this one has 0"),
        ("desk", "Is there a pool?", " ", "the answer has 1 to 600 characters, this one has 0"),
        ("desk", "And then?", "Yes.", "the question means nothing by itself"),
        ("desk", "When is breakfast?", "At nine.", "the file of questions of agent `desk` answers that already"),
    ] {
        let sentence = answers.add(agent, question, answer).expect_err("wrong");
        assert!(sentence.starts_with(wanted), "{sentence}");
    }
}
