//! The real binary on a real Kafka that asks for a password over TLS.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use uptake_tests::binary::Running;
use uptake_tests::kafka::{Secured, secured};
use uptake_tests::wait::until;

use super::kafka::{LONG, Place};
use super::records::{check_each_once, schedule};

/// How long a bounded read may go on when it can never get in.
const REFUSED_WITHIN: Duration = Duration::from_mins(1);

async fn place(name: &str) -> Place {
    let mut place = Place::at(&secured().open, name, 2).await;
    place.brokers.clone_from(&secured().guarded);
    place
}

/// The settings that lead in, as `[kafka]` takes them.
fn settings(mechanism: &str) -> Vec<(&'static str, String)> {
    vec![
        ("security.protocol", "SASL_SSL".to_owned()),
        ("sasl.mechanisms", mechanism.to_owned()),
        ("sasl.username", Secured::USER.to_owned()),
        ("sasl.password", secured().password.clone()),
        ("ssl.ca.location", secured().authority.to_string_lossy().into_owned()),
    ]
}

/// Passes settings through the environment.
fn set(command: &mut Command, settings: &[(&str, String)]) {
    for (key, value) in settings {
        command.env(format!("UPTAKE_KAFKA_{}", key.replace('.', "_").to_uppercase()), value);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_come_through_with_scram_over_tls_each_once() {
    let place = place("scram").await;
    let records = schedule(61, 400, 2);
    place.produce(&records);
    let (code, said) = place.to_the_end(|command| set(command, &settings("SCRAM-SHA-256")));
    assert_eq!(code, 0, "{said}");
    check_each_once(&place.lake(), &place.own(&records)).await;
}

/// The settings may also stand in the file, and no command prints the password.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_settings_may_stand_in_the_file() {
    let place = place("plain").await;
    let records = schedule(62, 200, 2);
    place.produce(&records);
    let lines: Vec<String> =
        settings("PLAIN").iter().map(|(key, value)| format!("\"{key}\" = \"{value}\"\n")).collect();
    let file = format!("[kafka]\n{}", lines.concat());
    std::fs::write(place.directory.path().join("uptake.toml"), file).unwrap();
    let (code, said) = place.to_the_end(|command| {
        command.env("UPTAKE_TELEMETRY_LOG", "debug");
    });
    assert_eq!(code, 0, "{said}");
    assert!(!said.contains(&secured().password), "the password is in the log");
    check_each_once(&place.lake(), &place.own(&records)).await;
}

/// A read that is to end says what is wrong, soon, and ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bounded_read_that_is_not_let_in_ends_and_says_why() {
    let place = place("refused").await;
    let stranger = secured().stranger.to_string_lossy().into_owned();
    let cases = [
        ("sasl.password", "a wrong one".to_owned(), "sasl.password"),
        ("sasl.username", "nobody".to_owned(), "sasl.username"),
        ("ssl.ca.location", stranger, "ssl.ca.location"),
    ];
    for (key, value, expect) in cases {
        let mut wrong = settings("SCRAM-SHA-256");
        wrong.iter_mut().filter(|(name, _)| *name == key).for_each(|(_, set)| set.clone_from(&value));
        let began = Instant::now();
        let (code, said) = place.to_the_end(|command| set(command, &wrong));
        println!("{key}: ended after {:?}: {said}", began.elapsed());
        assert_eq!(code, 2, "{key}: {said}");
        assert!(said.contains(expect) && said.contains("[kafka]"), "{key}: {said}");
        assert!(began.elapsed() < REFUSED_WITHIN, "{key}: {:?}", began.elapsed());
    }
    let mut absent = settings("SCRAM-SHA-256");
    absent.retain(|(key, _)| *key != "ssl.ca.location");
    absent.push(("ssl.ca.location", "/nowhere/ca.pem".to_owned()));
    let (code, said) = place.to_the_end(|command| set(command, &absent));
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("ssl.ca.location") && said.contains("/nowhere/ca.pem"), "{said}");
}

/// One that goes on waits, says so, counts, and reads when it is let in: a password may be changed on the broker's side.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_is_not_let_in_waits_and_counts() {
    let place = place("waits").await;
    let mut wrong = settings("SCRAM-SHA-256");
    wrong.iter_mut().filter(|(name, _)| *name == "sasl.password").for_each(|(_, set)| "a wrong one".clone_into(set));
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = place.consume();
    set(&mut command, &wrong);
    command.env("UPTAKE_TELEMETRY_LISTEN", format!("127.0.0.1:{port}"));
    let mut running = Running::start(&mut command, &place.directory.path().join("log"));
    until("the refusal is counted", LONG, || {
        assert!(running.is_running(), "uptake ended by itself: {}", running.said());
        let (_, metrics) = get(port, "/metrics")?;
        let counted = |line: &str| {
            line.starts_with("uptake_ingest_broker_errors_total")
                && line.contains("kind=\"authentication\"")
                && !line.ends_with(" 0")
        };
        metrics.lines().any(counted).then_some(())
    });
    let said = running.said();
    assert!(said.contains("does not accept the credentials") && said.contains("sasl"), "{said}");
    // The probes hear of it with the next statistics.
    until("the probe says why", LONG, || {
        let (ready, why) = get(port, "/ready")?;
        assert_eq!(ready, 503, "{why}");
        why.contains("refuses the credentials").then_some(())
    });
    assert_eq!(get(port, "/live").unwrap().0, 200, "it lives, so nobody need start it anew");
    running.terminate();
    assert_eq!(running.wait(Duration::from_secs(20)).code(), Some(0), "{}", running.said());
}

/// Status and body of a page of this machine; none while nobody answers.
fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
}
