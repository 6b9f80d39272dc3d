//! Questions whose answers are computed: endless variety, always right.

use rand::Rng as _;
use rand_chacha::ChaCha8Rng;

use crate::threads::Thread;

const NAMES: [&str; 12] = [
    "orders",
    "invoices",
    "visits",
    "tickets",
    "shipments",
    "users",
    "payments",
    "reviews",
    "sessions",
    "returns",
    "refunds",
    "devices",
];
const COLUMNS: [&str; 8] = ["country", "status", "plan", "channel", "region", "category", "month", "team"];
const WEEKDAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// A thread of two exchanges.
pub(crate) fn draw(rng: &mut ChaCha8Rng) -> Thread {
    let kind = rng.random_range(0..12);
    let (topic, exchanges) = match kind {
        0 => ("conversion", distance(rng)),
        1 => ("money", tip(rng)),
        2 => ("conversion", temperature(rng)),
        3 => ("calendar", weekday(rng)),
        4 => ("numbers", binary(rng)),
        5 => ("maths", equation(rng)),
        6 => ("sql", grouping(rng)),
        7 => ("python", sorting(rng)),
        8 => ("money", percentage(rng)),
        9 => ("numbers", product(rng)),
        10 => ("money", interest(rng)),
        _ => ("fitness", pace(rng)),
    };
    Thread { topic: topic.to_owned(), exchanges: exchanges.into(), poor: None }
}

type Exchanges = [(String, String); 2];

fn distance(rng: &mut ChaCha8Rng) -> Exchanges {
    let (first, second): (u32, u32) = (rng.random_range(2..400), rng.random_range(2..400));
    let km = |miles: u32| f64::from(miles) * 1.609_344;
    [
        (
            format!("How many kilometres are {first} miles?"),
            format!("{first} miles are {:.1} km (1 mile = 1.609 km).", km(first)),
        ),
        (format!("And {second} miles?"), format!("{:.1} km.", km(second))),
    ]
}

fn tip(rng: &mut ChaCha8Rng) -> Exchanges {
    let (percent, cents, people): (u32, u32, u32) =
        (rng.random_range(10..26), rng.random_range(1_200..18_000), rng.random_range(2..7));
    let bill = f64::from(cents) / 100.0;
    let tip = bill * f64::from(percent) / 100.0;
    [
        (
            format!("What is a {percent} percent tip on ${bill:.2}?"),
            format!("${tip:.2}, which makes ${:.2} in total.", bill + tip),
        ),
        (format!("Split between {people} people?"), format!("${:.2} each.", (bill + tip) / f64::from(people))),
    ]
}

fn temperature(rng: &mut ChaCha8Rng) -> Exchanges {
    let (first, second): (i32, i32) = (rng.random_range(-20..120), rng.random_range(-10..45));
    [
        (
            format!("Convert {first} Fahrenheit to Celsius"),
            format!("{:.1} °C: subtract 32, then multiply by 5/9.", f64::from(first - 32) * 5.0 / 9.0),
        ),
        (format!("What is {second} Celsius in Fahrenheit then?"), format!("{:.1} °F.", f64::from(second) * 1.8 + 32.0)),
    ]
}

fn weekday(rng: &mut ChaCha8Rng) -> Exchanges {
    let day: i32 = rng.random_range(-9_000..19_000);
    // 1 January 1970 was a Thursday.
    let name = |day: i32| WEEKDAYS[usize::try_from(day.rem_euclid(7)).unwrap_or_default()];
    let date = uptake_model::time::day_text(day);
    [
        (format!("Which day of the week was {date}?"), format!("A {}.", name(day))),
        (
            "And 100 days later?".to_owned(),
            format!("{}, a {}.", uptake_model::time::day_text(day + 100), name(day + 100)),
        ),
    ]
}

fn binary(rng: &mut ChaCha8Rng) -> Exchanges {
    let number: u32 = rng.random_range(17..4_000);
    [
        (format!("Write {number} in binary."), format!("{number:b}")),
        ("And in hexadecimal?".to_owned(), format!("0x{number:X}: group the binary digits in fours from the right.")),
    ]
}

fn equation(rng: &mut ChaCha8Rng) -> Exchanges {
    let (a, x, b): (i32, i32, i32) = (rng.random_range(2..15), rng.random_range(-12..25), rng.random_range(1..40));
    let c = a * x + b;
    [
        (
            format!("Solve {a}x + {b} = {c}"),
            format!("Subtract {b} on both sides: {a}x = {}. Divide by {a}: x = {x}.", c - b),
        ),
        ("How do I check that?".to_owned(), format!("Put it in: {a} · ({x}) + {b} = {} + {b} = {c}.", a * x)),
    ]
}

fn grouping(rng: &mut ChaCha8Rng) -> Exchanges {
    let (table, column) = (NAMES[rng.random_range(0..NAMES.len())], COLUMNS[rng.random_range(0..COLUMNS.len())]);
    let top: u32 = rng.random_range(3..20);
    let base = format!("SELECT {column}, count(*) AS n\nFROM {table}\nGROUP BY {column}\nORDER BY n DESC");
    [
        (format!("SQL to count {table} per {column}, most frequent first"), format!("```sql\n{base};\n```")),
        (format!("Now only the top {top}"), format!("```sql\n{base}\nLIMIT {top};\n```")),
    ]
}

fn sorting(rng: &mut ChaCha8Rng) -> Exchanges {
    let (table, column) = (NAMES[rng.random_range(0..NAMES.len())], COLUMNS[rng.random_range(0..COLUMNS.len())]);
    [
        (
            format!("Python: sort a list of {table} objects by their {column}"),
            format!(
                "```python\n{table}.sort(key=lambda item: item.{column})\n```\nUse `sorted({table}, key=...)` for a new list."
            ),
        ),
        (
            "Descending, and by id where they are equal?".to_owned(),
            format!(
                "```python\n{table}.sort(key=lambda item: item.id)\n{table}.sort(key=lambda item: item.{column}, reverse=True)\n```\nPython's sort is stable, so the first order survives among equals."
            ),
        ),
    ]
}

fn percentage(rng: &mut ChaCha8Rng) -> Exchanges {
    let (percent, number): (u32, u32) = (rng.random_range(3..97), rng.random_range(40..9_000));
    let part = f64::from(percent) * f64::from(number) / 100.0;
    [
        (format!("How much is {percent}% of {number}?"), format!("{part:.2}")),
        ("What remains when I take that away?".to_owned(), format!("{:.2}", f64::from(number) - part)),
    ]
}

fn product(rng: &mut ChaCha8Rng) -> Exchanges {
    let (a, b): (u64, u64) = (rng.random_range(12..990), rng.random_range(12..990));
    [
        (format!("What is {a} times {b}?"), format!("{}", a * b)),
        (
            "How would I do that in my head?".to_owned(),
            format!(
                "Split one factor: {a} × {} + {a} × {} = {} + {}.",
                b / 10 * 10,
                b % 10,
                a * (b / 10 * 10),
                a * (b % 10)
            ),
        ),
    ]
}

fn interest(rng: &mut ChaCha8Rng) -> Exchanges {
    let (euros, tenths, years): (u32, u32, i32) =
        (rng.random_range(5..400) * 100, rng.random_range(10..75), rng.random_range(2..25));
    let rate = f64::from(tenths) / 10.0;
    let after = |years: i32| f64::from(euros) * (1.0 + rate / 100.0).powi(years);
    [
        (
            format!("What do {euros} euros become at {rate:.1} percent a year after {years} years?"),
            format!("{:.2} euros: {euros} × (1 + {:.3})^{years}.", after(years), rate / 100.0),
        ),
        ("And after twice as long?".to_owned(), format!("{:.2} euros.", after(2 * years))),
    ]
}

fn pace(rng: &mut ChaCha8Rng) -> Exchanges {
    let (km, minutes): (u32, u32) = (rng.random_range(3..30), rng.random_range(250..430));
    let (total, pace) = (km * minutes, minutes);
    let clock = |seconds: u32| format!("{}:{:02}", seconds / 60, seconds % 60);
    [
        (
            format!("I ran {km} km in {} minutes. What is my pace?", clock(total)),
            format!("{} minutes a kilometre.", clock(pace)),
        ),
        (
            "What would a half marathon take at that pace?".to_owned(),
            format!("About {} minutes.", clock(pace * 21_098 / 1_000)),
        ),
    ]
}
