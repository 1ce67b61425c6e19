//! The loads, each bounded in messages and in time, and what is measured of them.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::Sizes;
use crate::message::{Kind, Receiver};
use crate::proxy::Proxy;
use crate::support::process::Watch;
use crate::support::report::{Measure, Sample};
use crate::support::{Outcome, percentile};
use crate::tunnel::{self, Tunnel};
use crate::upstream::{
    DONE, FAST_PICTURE, INPUT, INPUTS_PER_SECOND, Order, PICTURES_PER_SECOND, picture_size,
};

/// A message of the bulk load.
const MESSAGE: usize = 16 * 1024;

/// Streams of the load of desktops.
pub(crate) const DESKTOPS: usize = 64;

/// Between keystrokes. No multiple of the fast picture's step, so that they meet all its phases.
const BETWEEN_KEYS: Duration = Duration::from_micros(7300);

/// A fast picture runs for this long before the first keystroke, and after the last.
const AROUND_KEYS: Duration = Duration::from_millis(200);

/// Bytes as fast as they go from the pods to browsers.
pub(crate) async fn bulk(proxy: &Proxy, streams: usize, sizes: &Sizes) -> Outcome<Vec<Sample>> {
    let count = sizes.bulk / (MESSAGE * streams) as u64;
    let tunnels = tunnel::open_all(&proxy.door, streams).await?;
    let watch = Watch::start(&proxy.process);
    tunnel::on_all(tunnels, move |mut tunnel, _| async move {
        tunnel.order(Order::Bulk { size: MESSAGE, count }).await?;
        for _ in 0..count {
            expect(&mut tunnel.from, MESSAGE).await?;
        }
        done(&mut tunnel.from).await
    })
    .await?;
    let (cpu, wall) = watch.stop();
    let bytes = (count * (MESSAGE * streams) as u64) as f64;
    Ok(vec![
        (Measure::new("CPU per GB", "s", 3), cpu / bytes * 1e9),
        (Measure::new("throughput", "MB/s", 0), bytes / wall / 1e6),
    ])
}

/// Small messages to the pod and back, one at a time per connection.
pub(crate) async fn echo(proxy: &Proxy, streams: usize, sizes: &Sizes) -> Outcome<Vec<Sample>> {
    let count = sizes.echoes / if streams == 1 { 2 } else { streams };
    let tunnels = tunnel::open_all(&proxy.door, streams).await?;
    let watch = Watch::start(&proxy.process);
    let times = tunnel::on_all(tunnels, move |mut tunnel, _| async move {
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let start = Instant::now();
            tunnel.echo(&[0x5a; INPUT]).await?;
            times.push(start.elapsed());
        }
        Ok(times)
    })
    .await?;
    let (cpu, _) = watch.stop();
    let mut times = times.concat();
    let messages = (2 * count * streams) as f64;
    Ok(vec![
        (Measure::new("CPU per message", "µs", 2), cpu / messages * 1e6),
        (Measure::new("p50", "µs", 0), percentile(&mut times, 500)),
        (Measure::new("p99", "µs", 0), percentile(&mut times, 990)),
    ])
}

/// Desktops that somebody works with: pictures at their pace, small inputs.
pub(crate) async fn desktops(proxy: &Proxy, sizes: &Sizes) -> Outcome<Vec<Sample>> {
    let seconds = sizes.desktops;
    let tunnels = tunnel::open_all(&proxy.door, DESKTOPS).await?;
    let watch = Watch::start(&proxy.process);
    tunnel::on_all(tunnels, move |mut tunnel, index| async move {
        tunnel.order(Order::Desktop { seconds, index }).await?;
        let Tunnel { mut from, mut to } = tunnel;
        let pictures = async {
            for picture in 0..seconds * PICTURES_PER_SECOND {
                expect(&mut from, picture_size(index, picture)).await?;
            }
            done(&mut from).await
        };
        let inputs = async {
            let between = Duration::from_secs(1) / INPUTS_PER_SECOND;
            let start = Instant::now() + between.mul_f64(f64::from(index) / DESKTOPS as f64);
            for input in 0..seconds * INPUTS_PER_SECOND {
                sleep_until(start + between * input).await;
                to.binary(&[0x5a; INPUT]).await?;
            }
            Ok(())
        };
        tokio::try_join!(pictures, inputs).map(drop)
    })
    .await?;
    let (cpu, wall) = watch.stop();
    let seconds = f64::from(seconds);
    Ok(vec![
        (Measure::new("CPU per second of load", "ms", 1), cpu / seconds * 1e3),
        (Measure::new("time taken per second of load", "s", 3), wall / seconds),
    ])
}

/// Keystrokes that come back, on a quiet tunnel and then while it carries a fast picture.
pub(crate) async fn keys(proxy: &Proxy, sizes: &Sizes) -> Outcome<Vec<Sample>> {
    let mut tunnels = tunnel::open_all(&proxy.door, 1).await?;
    let mut tunnel = tunnels.pop().ok_or("no tunnel")?;
    let (mut quiet, _) = type_keys(&mut tunnel, sizes.keys).await?;
    let typing = BETWEEN_KEYS * sizes.keys + AROUND_KEYS * 2;
    let start = Instant::now();
    tunnel.order(Order::Picture { millis: u64::try_from(typing.as_millis())? }).await?;
    let mut pictures = 0;
    while start.elapsed() < AROUND_KEYS {
        expect(&mut tunnel.from, FAST_PICTURE).await?;
        pictures += 1;
    }
    let (mut busy, meanwhile) = type_keys(&mut tunnel, sizes.keys).await?;
    pictures += meanwhile;
    loop {
        let message = tunnel.next().await?;
        if message.kind == Kind::Text {
            break;
        }
        pictures += 1;
    }
    let rate = (pictures * FAST_PICTURE) as f64 / start.elapsed().as_secs_f64();
    Ok(vec![
        (Measure::new("p50, quiet", "µs", 0), percentile(&mut quiet, 500)),
        (Measure::new("p99, quiet", "µs", 0), percentile(&mut quiet, 990)),
        (Measure::new("p50, beside the picture", "µs", 0), percentile(&mut busy, 500)),
        (Measure::new("p99, beside the picture", "µs", 0), percentile(&mut busy, 990)),
        (Measure::new("the picture", "MB/s", 0), rate / 1e6),
    ])
}

/// Sends keystrokes at their pace, whether or not the last came back; also counts the messages of
/// the picture that came meanwhile.
async fn type_keys(tunnel: &mut Tunnel, count: u32) -> Outcome<(Vec<Duration>, usize)> {
    let Tunnel { from, to } = tunnel;
    let start = Instant::now();
    let send = async {
        for key in 0..count {
            let due = start + BETWEEN_KEYS * key;
            sleep_until(due).await;
            let mut payload = [0x5a; INPUT];
            let sent = u64::try_from(start.elapsed().as_nanos())?;
            payload[..8].copy_from_slice(&sent.to_be_bytes());
            to.binary(&payload).await?;
        }
        Outcome::Ok(())
    };
    let receive = async {
        let mut times = Vec::new();
        let mut pictures = 0;
        while times.len() < count as usize {
            let message = from.next().await?;
            match (message.payload.len(), message.payload.first_chunk()) {
                (INPUT, Some(sent)) => {
                    let sent = Duration::from_nanos(u64::from_be_bytes(*sent));
                    times.push(start.elapsed().saturating_sub(sent));
                }
                (FAST_PICTURE, _) => pictures += 1,
                (length, _) => return Err(format!("a message of {length} bytes").into()),
            }
        }
        Ok((times, pictures))
    };
    tokio::try_join!(send, receive).map(|((), received)| received)
}

/// Takes a binary message of this size.
async fn expect<R>(from: &mut Receiver<R>, size: usize) -> Outcome<()>
where
    R: tokio::io::AsyncRead + Unpin,
{
    let message = from.next().await?;
    if message.kind == Kind::Binary && message.payload.len() == size {
        return Ok(());
    }
    Err(format!("a message of {} bytes where {size} belong", message.payload.len()).into())
}

/// Takes the pod's word that it has carried out an order.
async fn done<R>(from: &mut Receiver<R>) -> Outcome<()>
where
    R: tokio::io::AsyncRead + Unpin,
{
    let message = from.next().await?;
    if message.kind == Kind::Text && message.payload == DONE {
        return Ok(());
    }
    Err("the pod sent more than it should".into())
}
