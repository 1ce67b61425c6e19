use std::net::TcpListener;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::*;
use crate::auth::{Fingerprint, TargetPolicy};
use crate::discovery::{Server, Settings, Transport};

const NOW: Duration = Duration::from_secs(1_000);

/// Pods of which nothing is known yet, since the API does not answer.
fn unknown(api: &TcpListener, waiting: Waiting) -> Watched {
    let (host, port) = api.local_addr().map(|at| (at.ip().to_string(), at.port())).unwrap();
    let mono = Instant::now();
    let settings = Settings {
        server: Server { host, port, transport: Transport::Plain },
        namespace: "abcdesktop".to_owned(),
        service: "desktop".to_owned(),
        watch_timeout: Duration::from_secs(30),
        memory: Duration::from_secs(600),
        skew: Duration::from_secs(1),
    };
    Watched {
        pods: Pods::start(settings, Arc::new(move || Moment { wall: NOW, mono })),
        falls_back: false,
        allows_ambiguous: false,
        wait: Duration::from_secs(3_600),
        waiting,
        asking: Waiting::new(1, 1),
        announced: Arc::default(),
    }
}

fn desktop(name: &str) -> Desktop {
    let policy = TargetPolicy::new(Some("desktop.example"), Vec::new()).unwrap();
    Desktop {
        target: policy.confine(format!("{name}.desktop.example").as_bytes()).unwrap(),
        expires: 1_400,
        issued: Some(1_000),
        fingerprint: Fingerprint::parse("0123456789ab").unwrap(),
    }
}

#[tokio::test]
async fn one_user_does_not_take_the_places_of_all_who_wait() {
    let api = TcpListener::bind("127.0.0.1:0").unwrap();
    let watched = unknown(&api, Waiting::new(1024, 32));
    let now = Now { wall: NOW, mono: Instant::now() };
    let (ida, bob) = (desktop("ida"), desktop("bob"));
    let context = &mut Context::from_waker(Waker::noop());
    let mut waits: Vec<_> = (0..32).map(|_| Box::pin(watched.find(&ida, now))).collect();
    assert!(waits.iter_mut().all(|wait| wait.as_mut().poll(context).is_pending()));
    let more = pin!(watched.find(&ida, now)).poll(context);
    assert!(matches!(more, Poll::Ready(Err(Some(Error::DesktopsUnknown)))), "{more:?}");
    assert!(pin!(watched.find(&bob, now)).poll(context).is_pending());
    // One of hers leaves.
    drop(waits.pop());
    assert!(pin!(watched.find(&ida, now)).poll(context).is_pending());
}
