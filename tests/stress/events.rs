//! Many streams of server-sent events through `redact`: each event leaves about when it would leave without the filter, and a stream takes little
//! memory.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sluice_harness::Gateway;
use sluice_harness::load::scaled;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;

use crate::support::with_base;
use crate::{alone, tell};

/// The time between two events of a stream.
const PACE: Duration = Duration::from_millis(100);

fn runtime() -> tokio::runtime::Runtime {
    Builder::new_current_thread().enable_all().build().expect("an event loop")
}

/// An origin that sends events as long as its clients stay: each has the time when it was sent, and something that may not leave.
fn origin(begin: Instant) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("a socket");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        runtime().block_on(async move {
            let listener = TcpListener::from_std(listener).expect("a socket");
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                tokio::spawn(send(stream, begin));
            }
        });
    });
    address
}

async fn send(mut stream: TcpStream, begin: Instant) -> std::io::Result<()> {
    let mut head = [0; 4096];
    let length = stream.read(&mut head).await?;
    assert!(head[..length].ends_with(b"\r\n\r\n"), "a head comes at once");
    stream.set_nodelay(true)?;
    stream
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        .await?;
    let mut ticks = tokio::time::interval(PACE);
    loop {
        ticks.tick().await;
        let sent = begin.elapsed().as_micros();
        let data =
            format!("data: {{\"sent\":{sent},\"password\":\"x\",\"text\":\"ask ada@example.org about it\"}}\n\n");
        stream.write_all(format!("{:x}\r\n{data}\r\n", data.len()).as_bytes()).await?;
    }
}

/// What was seen of the events of many streams.
struct Seen {
    /// Microseconds on the way of each event, in order.
    delays: Vec<u64>,
    /// Bytes of memory that the gateway took for each stream.
    memory: i64,
}

impl Seen {
    fn p99(&self) -> u64 {
        self.delays[self.delays.len() * 99 / 100]
    }
}

/// Opens so many streams and reads them for a while. Where `is_redacted`, none of what may not leave is in them.
fn streams(gateway: &Gateway, count: usize, time: Duration, begin: Instant, is_redacted: bool) -> Seen {
    let address = gateway.address();
    let before = gateway.resident();
    let open = Arc::new(AtomicUsize::new(0));
    let (opened, delays) = (Arc::clone(&open), std::sync::Mutex::new(Vec::new()));
    let mut memory = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime(), async {
                let readers: Vec<_> = (0..count)
                    .map(|_| {
                        tokio::task::spawn_local(read(address, Arc::clone(&opened), count, time, begin, is_redacted))
                    })
                    .collect();
                for reader in readers {
                    let seen = reader.await.expect("a reader");
                    delays.lock().expect("nobody panics").extend(seen);
                }
            });
        });
        sluice_harness::eventually("all streams", || open.load(Ordering::Relaxed) >= count);
        // Half of the time is enough for all streams to have what they need.
        thread::sleep(time / 2);
        memory = (gateway.resident() as i64 - before as i64) / count as i64;
    });
    let mut delays = delays.into_inner().expect("nobody panics");
    delays.sort_unstable();
    Seen { delays, memory }
}

/// Reads a stream, and looks at its events once all streams are open.
async fn read(
    address: SocketAddr,
    open: Arc<AtomicUsize>,
    count: usize,
    time: Duration,
    begin: Instant,
    is_redacted: bool,
) -> Vec<u64> {
    let mut stream = TcpStream::connect(address).await.expect("the gateway");
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("a request");
    let (mut text, mut delays, mut end) = (Vec::new(), Vec::new(), None);
    let mut is_open = false;
    loop {
        if stream.read_buf(&mut text).await.expect("more of the stream") == 0 {
            panic!("the stream has ended: {}", String::from_utf8_lossy(&text));
        }
        let now = begin.elapsed();
        while let Some(length) = text.windows(2).position(|two| two == b"\n\n") {
            let event = String::from_utf8_lossy(&text[..length]).into_owned();
            text.drain(..length + 2);
            let Some((_, data)) = event.split_once("\"sent\":") else { continue };
            assert_eq!(data.contains("password") || data.contains("ada@"), !is_redacted, "{event}");
            let sent: u64 = data.split(',').next().and_then(|sent| sent.parse().ok()).expect("a time");
            if !std::mem::replace(&mut is_open, true) {
                open.fetch_add(1, Ordering::Relaxed);
            }
            match end {
                None if open.load(Ordering::Relaxed) >= count => end = Some(now + time),
                None => {}
                Some(end) if now >= end => return delays,
                Some(_) => delays.push((now.as_micros() as u64).saturating_sub(sent)),
            }
        }
    }
}

#[test]
fn events_leave_when_they_would_without_the_filter() {
    let _alone = alone();
    let count = scaled("SLUICE_TEST_EVENT_STREAMS", 20);
    let time = Duration::from_secs(scaled("SLUICE_TEST_EVENT_SECONDS", 2) as u64);
    let begin = Instant::now();
    let origin = origin(begin);
    let gateway = |pipeline: &str| {
        Gateway::start(&with_base(&format!(
            "[telemetry]\naccess_log = \"off\"\n\
             [filters.private]\nplugin = \"redact\"\n\
             config.rules = [{{ pointers = [\"/password\"], action = \"remove\" }}, {{ detect = \"email\" }}, {{ detect = \"card\" }}]\n\
             [routes.all]\nmatch = {{ path = \"/**\" }}\nupstream = \"http://{origin}\"\npipeline = {pipeline}\n"
        )))
    };
    // One after the other, and again. Each has a gateway of its own, so that its memory is, too. What else the machine does moves both: the worst
    // without the filter is what the best with it is compared with.
    let run = |pipeline: &str, is_redacted: bool| {
        let gateway = gateway(pipeline);
        streams(&gateway, 10, Duration::from_millis(300), begin, is_redacted);
        streams(&gateway, count, time, begin, is_redacted)
    };
    let mut delays = [0, u64::MAX];
    let mut memory = [i64::MAX; 2];
    for _ in 0..2 {
        for (at, pipeline) in ["[]", "[\"private\"]"].into_iter().enumerate() {
            let seen = run(pipeline, at == 1);
            tell(&format!(
                "{count} streams, pipeline {pipeline}: {} events, p50 {} µs, p99 {} µs, {} bytes of memory a stream",
                seen.delays.len(),
                seen.delays[seen.delays.len() / 2],
                seen.p99(),
                seen.memory
            ));
            delays[at] = if at == 0 { seen.p99().max(delays[at]) } else { seen.p99().min(delays[at]) };
            memory[at] = memory[at].min(seen.memory);
        }
    }
    let [plain, redacted] = delays;
    assert!(redacted < plain + 5000, "p99 is {redacted} µs, and {plain} µs without the filter");
    let more = memory[1] - memory[0];
    // What is made once for all streams, such as the filter's instances, is in it where there are few streams.
    let once = 4 << 20;
    assert!(more < (16 << 10) + once / count as i64, "{more} bytes more a stream");
}
