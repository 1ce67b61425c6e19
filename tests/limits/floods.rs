use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use super::Watched;
use crate::support::{Client, PODS, Site, tokens};

/// Clients that begin a request and do not end it.
const SLOW: usize = 1000;

/// Requests with tokens that are no good, and how many of them are sent at once.
const FORGED: usize = 20_000;
const AT_ONCE: usize = 25;

/// Asks one after the other while `busy`; panics unless each is served. Returns how long each took,
/// in milliseconds, sorted.
fn good_requests(site: &Site, busy: &AtomicBool) -> Vec<f64> {
    let token = tokens::valid(PODS[0]);
    let ask = format!("GET /filer/x HTTP/1.1\r\nHost: x\r\nABCAuthorization: {token}\r\n\r\n");
    let mut client = site.client();
    let mut took = Vec::new();
    while busy.load(Ordering::SeqCst) || took.len() < 100 {
        let start = Instant::now();
        assert_eq!(client.ask(&ask).status, 200);
        took.push(start.elapsed().as_secs_f64() * 1e3);
    }
    took.sort_by(f64::total_cmp);
    took
}

/// Says where the good requests were; for whoever runs this by hand with `--nocapture`.
#[allow(clippy::print_stderr, reason = "figures for the documents")]
fn tell(what: &str, took: &[f64]) {
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
    let (median, late) = (at(0.5), at(0.99));
    eprintln!("{what}: {} good requests, p50 {median:.2} ms, p99 {late:.2} ms", took.len());
}

#[test]
fn a_thousand_clients_that_never_end_their_heads_hold_up_nobody() {
    let watched = Watched::start("[listen]\nheader_timeout = \"3s\"\n");
    let site = &watched.site;
    tell("before", &good_requests(site, &AtomicBool::new(false)));
    let mut slow: Vec<Client> = (0..SLOW).map(|_| site.client()).collect();
    for client in &mut slow {
        client.send("GET /API/slow HTTP/1.1\r\nHost:");
    }
    let busy = AtomicBool::new(true);
    let took = thread::scope(|scope| {
        let good = scope.spawn(|| good_requests(site, &busy));
        for client in &mut slow {
            // Still a byte now and then, and none of them ends the head. Late ones were answered.
            drop(client.stream().write_all(b"x"));
        }
        for client in &mut slow {
            let answer = client.response();
            assert_eq!((answer.status, answer.error().as_str()), (408, "head_timeout"));
            assert_eq!(client.rest(), b"");
        }
        busy.store(false, Ordering::SeqCst);
        good.join().unwrap()
    });
    tell("while a thousand heads were held", &took);
    watched.until("deskgate_connections", 0.0);
    assert!(site.pyos.seen().is_empty());
}

#[test]
fn a_flood_of_forged_tokens_holds_up_nobody() {
    let watched = Watched::start("[limits]\nexempt = []\nfailure_delay = \"20ms\"\n");
    let site = &watched.site;
    tell("before", &good_requests(site, &AtomicBool::new(false)));
    let next = AtomicUsize::new(0);
    let forged = tokens::foreign(PODS[0]);
    let (message, signature) = forged.rsplit_once('.').unwrap();
    let flood = || {
        let mut client = site.client();
        let mut answers = [0; 2];
        loop {
            let first = next.fetch_add(AT_ONCE, Ordering::SeqCst);
            if first >= FORGED {
                return answers;
            }
            // Each one is another, so that none is remembered: its signature must be looked at.
            let forge = |number| {
                let token = format!("{message}.{number:08}{}", &signature[8..]);
                format!("GET /filer/x HTTP/1.1\r\nHost: x\r\nABCAuthorization: {token}\r\n\r\n")
            };
            client.send((first..first + AT_ONCE).map(forge).collect::<String>());
            for _ in 0..AT_ONCE {
                let answer = client.response();
                answers[usize::from(answer.status == 429)] += 1;
                assert!(matches!(answer.status, 401 | 429), "{answer:?}");
            }
        }
    };
    let busy = AtomicBool::new(true);
    let start = Instant::now();
    let (took, answers) = thread::scope(|scope| {
        let good = scope.spawn(|| good_requests(site, &busy));
        let floods: Vec<_> = (0..8).map(|_| scope.spawn(flood)).collect();
        let answers: Vec<_> = floods.into_iter().map(|flood| flood.join().unwrap()).collect();
        busy.store(false, Ordering::SeqCst);
        (good.join().unwrap(), answers)
    });
    let rate = FORGED as f64 / start.elapsed().as_secs_f64();
    tell(&format!("while {rate:.0} forged tokens a second came"), &took);
    let refused: usize = answers.iter().map(|answers| answers[1]).sum();
    assert!(refused > FORGED / 2, "{answers:?}");
    assert_eq!(watched.refused("auth_failures"), refused as f64);
}
