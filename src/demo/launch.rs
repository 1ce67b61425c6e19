//! Tells how a desktop starts as server-sent events, ending with its token; assumes the caller has
//! been checked.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::StatusCode;
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::Resident;
use super::pyos::Pyos;
use super::reply::{Reply, cached, streamed};

/// Long enough to tell a gateway that buffers from one that does not.
const PAUSE: Duration = Duration::from_millis(300);

const STEPS: [&str; 4] =
    ["Looking for your desktop", "Starting the pod", "Starting the X server", "Desktop is ready"];

/// One message per step and then the token, minted last so that it is fresh.
pub(super) fn events(pyos: Arc<Pyos>, resident: Resident, target_ip: String) -> Reply {
    let stages = STEPS.into_iter().map(Some).chain([None]);
    let events = stream::unfold(
        (stages, pyos, target_ip),
        move |(mut stages, pyos, target_ip)| async move {
            let event = match stages.next()? {
                Some(message) => json!({"status": 100, "message": message}),
                None => match pyos.launched(resident, &target_ip) {
                    Some(result) => json!({"status": 200, "result": result}),
                    None => json!({"status": 500, "message": "no desktop token could be made"}),
                },
            };
            let frame = Ok::<_, Infallible>(Frame::data(encoded(&event)));
            if event.get("status") != Some(&Value::from(100)) {
                return Some((frame, (stages, pyos, target_ip)));
            }
            sleep(PAUSE).await;
            Some((frame, (stages, pyos, target_ip)))
        },
    );
    cached(
        streamed(StatusCode::OK, "text/event-stream", StreamBody::new(events).boxed_unsync()),
        "no-cache",
    )
}

fn encoded(event: &Value) -> Bytes {
    format!("data:{event}\n\n").into()
}
