//! Passes on the answer of a pod that did not accept an upgrade.

use pingora::Result;
use pingora::http::ResponseHeader;
use pingora::protocols::http::v1::client::HttpSession as Pod;
use pingora::proxy::Session;

use crate::error::Error;
use crate::upstream;

/// Writes the pod's plain response to the client, streaming its body. The client's connection ends
/// with it: what it sent after its request is nobody's HTTP.
pub(super) async fn pass_on(
    session: &mut Session,
    mut pod: Pod,
    head: ResponseHeader,
) -> Result<()> {
    session.set_keepalive(None);
    session.write_response_header(Box::new(head), false).await?;
    loop {
        // A body that breaks off must look broken to the client: no last chunk is written.
        let body = pod.read_body_bytes().await;
        let body = body.map_err(|_| Error::from(upstream::Error::InvalidResponse))?;
        let end = body.is_none();
        session.write_response_body(body, end).await?;
        if end {
            return Ok(());
        }
    }
}
