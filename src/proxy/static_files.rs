//! Answers a request with a file.

use std::collections::BTreeMap;

use pingora::Result;
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession as Session;

use super::context::Plan;
use super::exchange::write_head;
use crate::error::Error;
use crate::files::{Body, Root};
use crate::respond;

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
    let request = session.req_header();
    let file = root.serve(&request.method, path, query, &request.headers).await;
    let mut file = file.map_err(Error::from)?;
    let (mut parts, ()) = http::Response::new(()).into_parts();
    (parts.status, parts.headers) = (file.status, file.headers);
    for (name, value) in &plan.route.headers.response {
        parts.headers.entry(name).or_insert_with(|| value.clone());
    }
    let mut head = ResponseHeader::from(parts);
    respond::stamp(&mut head, session.req_header())?;
    write_head(session, head).await?;
    match &mut file.body {
        Body::Empty => Ok(()),
        Body::Whole(bytes) => session.write_response_body(bytes.clone(), true).await,
        Body::Stream(stream) => loop {
            // A file that cannot be read on breaks the response off, visibly.
            let chunk = stream.next().await.map_err(|_| Error::FileUnreadable)?;
            let Some(chunk) = chunk else { return Ok(()) };
            session.write_response_body(chunk, false).await?;
        },
    }
}
