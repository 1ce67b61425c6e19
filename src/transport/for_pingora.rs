//! What pingora's HTTP/2 asks of a stream.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use async_trait::async_trait;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::AsyncWriteExt;

use super::Transport;

#[async_trait]
impl Shutdown for Transport {
    async fn shutdown(&mut self) {
        // It is over either way.
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for Transport {
    fn id(&self) -> UniqueIDType {
        self.wire.tcp().as_raw_fd()
    }
}

impl Ssl for Transport {
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.speaks_http2().then_some(ALPN::H2)
    }
}

impl GetTimingDigest for Transport {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Transport {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Transport {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}

impl Peek for Transport {}
