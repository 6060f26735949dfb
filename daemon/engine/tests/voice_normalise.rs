//! What is written against what is said.

use callbox_engine::voice::normalise;
use proptest::prelude::*;

const TABLE: &[(&str, &str)] = &[
    // Times.
    ("See you at 9:30 am.", "See you at nine thirty AM."),
    ("at 9:05", "at nine oh five"),
    ("at 5 p.m. today", "at five PM today"),
    ("from 9am to 5pm", "from nine AM to five PM"),
    ("9am-5pm", "nine AM to five PM"),
    ("at 17:00", "at seventeen hundred"),
    ("at 3:00", "at three o'clock"),
    ("8:00–18:30", "eight o'clock to eighteen thirty"),
    ("The meeting, at 4 p.m., is on", "The meeting, at four PM, is on"),
    ("10.30am on Wed., Nov. 5", "ten thirty AM on Wednesday, November fifth"),
    // Money.
    ("It costs $12.50.", "It costs twelve dollars and fifty cents."),
    ("$1", "one dollar"),
    ("$0.99", "ninety nine cents"),
    ("$1,200 per month", "one thousand two hundred dollars per month"),
    ("€5 or £3.20", "five euros or three pounds and twenty pence"),
    ("$1.5M", "one point five million dollars"),
    ("$5 million", "five million dollars"),
    ("$5-$10", "five dollars to ten dollars"),
    ("$20/month", "twenty dollars per month"),
    // Dates.
    ("on 2026-11-21.", "on November twenty first, twenty twenty six."),
    ("on Nov 3rd", "on November third"),
    ("Nov. 3, 2026", "November third, twenty twenty six"),
    ("on 3/4", "on March fourth"),
    ("on 11/21/26", "on November twenty first, twenty twenty six"),
    ("December 24", "December twenty fourth"),
    ("the 3 May deadline", "the third of May deadline"),
    ("since 1995", "since nineteen ninety five"),
    ("in 2005", "in two thousand five"),
    ("You may call", "You may call"),
    ("Mon–Fri, 9-5", "Monday to Friday, nine to five"),
    ("Closed on Sun.", "Closed on Sunday."),
    // Telephone numbers.
    ("Call 555-1234.", "Call five five five, one two three four."),
    ("(312) 555-0147", "three one two, five five five, zero one four seven"),
    ("+1 312 555 0147", "plus one, three one two, five five five, zero one four seven"),
    ("1-800-555-0199", "one, eight hundred, five five five, zero one nine nine"),
    ("3125550147", "three one two, five five five, zero one four seven"),
    ("911", "nine hundred eleven"),
    // Addresses, rooms, codes.
    ("1450 Maple St.", "fourteen fifty Maple Street."),
    ("at 22 N Main Street, Suite 200", "at twenty two North Main Street, Suite two hundred"),
    ("300 5th Ave", "three hundred fifth Avenue"),
    ("Springfield, IL 62704", "Springfield, I L six two seven zero four"),
    ("Room 204 is free.", "Room two oh four is free."),
    ("Room 1512", "Room fifteen twelve"),
    ("ext. 42", "extension four two"),
    ("Your code is 4821.", "Your code is four eight two one."),
    ("confirmation number 123456", "confirmation number one two three, four five six"),
    ("seat B12", "seat B twelve"),
    ("booking AB12CD", "booking eh B twelve C D"),
    ("#5", "number five"),
    ("a COVID-19 test", "a COVID nineteen test"),
    ("version v2.0", "version v two point zero"),
    // Numbers, ordinals, units, ranges.
    ("1,234 people", "one thousand two hundred thirty four people"),
    ("-5 and 3.14", "minus five and three point one four"),
    ("the 21st floor", "the twenty first floor"),
    ("12.5% off", "twelve point five percent off"),
    ("20°C", "twenty degrees Celsius"),
    ("take 500 mg", "take five hundred milligrams"),
    ("1 km", "one kilometer"),
    ("3-5 days", "three to five days"),
    ("10-12%", "ten to twelve percent"),
    ("1/2 hour", "one half hour"),
    ("3/4 of the price", "three quarters of the price"),
    ("6 ft. tall, 50/50", "six feet tall, fifty fifty"),
    ("open 24/7", "open twenty four seven"),
    ("007", "zero zero seven"),
    // Abbreviations.
    ("Dr. Smith and Mrs. Jones", "Doctor Smith and Missus Jones"),
    ("St. Mary Hospital", "Saint Mary Hospital"),
    ("Maple St. is near", "Maple Street is near"),
    ("e.g. a card, etc.", "for example, a card, et cetera."),
    ("R&D", "R and D"),
    ("and/or", "and or"),
    ("yes/no", "yes or no"),
    // Web.
    ("Visit www.example.com.", "Visit W W W dot example dot com."),
    ("joe.doe@example.org", "joe dot doe at example dot org"),
    ("https://example.com/help", "example dot com slash help"),
    // Leftovers of markup.
    ("**Bold** and _it_ `code`", "Bold and it code"),
    ("# Hours\n- Mon to Fri\n- Sat", "Hours. Monday to Friday. Saturday"),
    ("1. First\n2. Second", "First. Second"),
    ("[our site](https://x.com) 😀", "our site"),
    ("Yes — of course", "Yes, of course"),
    ("We (the team) agree.", "We, the team, agree."),
    ("“Quoted” it’s fine…", "Quoted it's fine,"),
    ("", ""),
    ("🙂 ** ...", ""),
];

#[test]
fn is_said_as_a_person_would() {
    let wrong: Vec<String> = TABLE
        .iter()
        .filter(|(written, said)| normalise(written) != *said)
        .map(|(written, said)| format!("{written:?}\n  want {said:?}\n  have {:?}", normalise(written)))
        .collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), TABLE.len(), wrong.join("\n"));
}

fn sane(text: &str) -> Result<(), TestCaseError> {
    let said = normalise(text);
    prop_assert!(!said.contains(|c: char| c.is_ascii_digit()), "{text:?} -> {said:?}");
    prop_assert!(!said.contains(['*', '#', '`', '_', '$', '%', '@', '/', '\n']), "{text:?} -> {said:?}");
    prop_assert!(said.len() <= 64 + text.len() * 40, "{text:?} -> {} bytes", said.len());
    Ok(())
}

proptest! {
    #[test]
    fn any_text_is_harmless(text in "\\PC{0,80}") {
        sane(&text)?;
    }

    #[test]
    fn any_figures_are_harmless(
        text in "([0-9]{1,20}|[-+.,:/#$%()° \n]|am|pm|st|th|kg|Nov|St|Dr|Mon|room|code|@|[A-Z]){0,24}",
    ) {
        sane(&text)?;
    }
}
