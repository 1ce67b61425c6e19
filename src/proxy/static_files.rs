//! Answers a request with a file.

use std::collections::BTreeMap;

use http::HeaderValue;
use http::header::LOCATION;
use pingora::Result;

use super::context::Plan;
use crate::error::Error;
use crate::files::{Body, Root};
use crate::session::Session;

/// Writes what the row's folder has at the path.
pub(super) async fn serve(
    session: &mut Session,
    plan: &Plan,
    roots: &BTreeMap<String, Root>,
) -> Result<()> {
    let root = roots.get(&plan.route.row.name).ok_or(Error::NoRoute)?;
    let (path, query) = match plan.target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (plan.target.as_str(), None),
    };
    let request = session.request();
    let file = root.serve(&request.method, path, query, &request.headers).await;
    let mut file = file.map_err(Error::from)?;
    let (mut head, ()) = http::Response::new(()).into_parts();
    (head.status, head.headers) = (file.status, file.headers);
    // What was taken off the front of the path is missing in the way to a folder.
    if let (Some(prefix), Some(folder)) = (&plan.prefix, head.headers.get_mut(LOCATION))
        && let Ok(whole) = HeaderValue::from_bytes(&[prefix.as_bytes(), folder.as_bytes()].concat())
    {
        *folder = whole;
    }
    for (name, value) in &plan.route.headers.response {
        head.headers.entry(name).or_insert_with(|| value.clone());
    }
    session.stamp(&mut head);
    session.write_head(head).await?;
    match &mut file.body {
        Body::Empty => Ok(()),
        Body::Whole(bytes) => session.write_body(bytes.clone()).await,
        Body::Stream(stream) => loop {
            // A file that cannot be read on breaks the response off, visibly.
            let chunk = stream.next().await.map_err(|_| Error::FileUnreadable)?;
            let Some(chunk) = chunk else { return Ok(()) };
            session.write_body(chunk).await?;
        },
    }
}
