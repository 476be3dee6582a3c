//! A connection to one of several addresses that lead to the same server (RFC 8305): each in turn, the next one as soon as the one before
//! has failed or was silent too long; the first that opens wins.

use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::error::{AttemptError, UpstreamErrorKind};
use super::pool::{Lease, Pool, Wanted};

/// While one address does not answer, the next one is tried after this long (RFC 8305 §8).
pub(super) const NEXT_ADDRESS: Duration = Duration::from_millis(250);

type Opening = Pin<Box<dyn Future<Output = Result<Lease, AttemptError>>>>;

/// A connection of the first of these pools that has or opens one, in their order. Each pool notes how it went. The caller bounds the
/// whole by a deadline.
pub(crate) async fn connect(pools: &[Rc<Pool>], wanted: Wanted) -> Result<Lease, AttemptError> {
    let mut rest = pools.iter();
    let mut openings: Vec<(&Rc<Pool>, Instant, Opening)> = Vec::new();
    let mut failure = None;
    loop {
        match rest.next() {
            // The usual one has one address, and needs no box.
            Some(pool) if pools.len() == 1 => return get(pool.clone(), wanted.clone()).await,
            Some(pool) => openings.push((pool, Instant::now(), Box::pin(get(pool.clone(), wanted.clone())))),
            None if openings.is_empty() => {
                return Err(failure.unwrap_or_else(|| AttemptError::new(UpstreamErrorKind::Connect)));
            }
            None => {}
        }
        let next = std::future::poll_fn(|cx| {
            for i in 0..openings.len() {
                if let Poll::Ready(outcome) = openings[i].2.as_mut().poll(cx) {
                    drop(openings.swap_remove(i));
                    return Poll::Ready(outcome);
                }
            }
            Poll::Pending
        });
        let outcome = if rest.len() == 0 {
            next.await
        } else {
            match tokio::time::timeout(NEXT_ADDRESS, next).await {
                Ok(outcome) => outcome,
                Err(_silent) => continue,
            }
        };
        match outcome {
            Ok(lease) => {
                // An address that was silent until another one had a connection has not taken one.
                let now = Instant::now();
                for (pool, begun, _) in openings.iter().filter(|(_, begun, _)| now - *begun >= NEXT_ADDRESS) {
                    pool.record().failed(*begun, now);
                }
                return Ok(lease);
            }
            // What a server said tells more than that nobody listens at another of its addresses.
            Err(attempt) => match &failure {
                Some(AttemptError { kind, .. }) if *kind != UpstreamErrorKind::Connect => {}
                _ => failure = Some(attempt),
            },
        }
    }
}

/// Another address may have a connection already.
async fn get(pool: Rc<Pool>, wanted: Wanted) -> Result<Lease, AttemptError> {
    match pool.checkout(wanted.http1_only) {
        Some(lease) => Ok(lease),
        None => pool.open(wanted).await,
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use super::*;
    use crate::upstream::address::Address;
    use crate::upstream::endpoints::Record;
    use crate::upstream::pool::Limits;
    use crate::upstream::spec::{Endpoint, EndpointSpec, Protocol};

    fn pool(address: [u8; 4], port: u16) -> Rc<Pool> {
        let spec = EndpointSpec::from_url(&format!("http://name.test:{port}")).unwrap();
        let endpoint = Arc::new(Endpoint::new(&spec, Protocol::Auto, None, None).unwrap());
        let address = Address::from(SocketAddr::from((address, port)));
        let record = Record::alone(&endpoint.name, address.clone());
        Pool::new(endpoint, address, record, Limits { max_idle: 1, idle_timeout: NEXT_ADDRESS, ..Limits::NONE })
    }

    #[tokio::test(flavor = "local")]
    async fn the_next_address_is_tried_when_one_refuses() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // 127.0.0.2 is this machine too, and nobody listens there.
        let pools = [pool([127, 0, 0, 2], port), pool([127, 0, 0, 1], port)];
        let lease = connect(&pools, Wanted::default()).await.ok().unwrap();
        assert!(Rc::ptr_eq(&lease.pool, &pools[1]));
        assert_eq!(
            pools.each_ref().map(|pool| (pool.record().is_healthy(), pool.record().active())),
            [(false, 0), (true, 1)]
        );
        assert_eq!(connect(&pools[..1], Wanted::default()).await.err().unwrap().kind, UpstreamErrorKind::Connect);
        assert_eq!(connect(&[], Wanted::default()).await.err().unwrap().kind, UpstreamErrorKind::Connect);
    }

    #[tokio::test(flavor = "local")]
    async fn the_next_address_is_tried_when_one_is_silent() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // Of TEST-NET-1 (RFC 5737): what goes there is lost, or refused by a router at once, which is no silence.
        let silent = [192, 0, 2, 1];
        let lost = tokio::net::TcpStream::connect((std::net::Ipv4Addr::from(silent), port));
        let is_silent = tokio::time::timeout(NEXT_ADDRESS * 2, lost).await.is_err();
        let pools = [pool(silent, port), pool([127, 0, 0, 1], port)];
        let begun = Instant::now();
        let lease = connect(&pools, Wanted::default()).await.ok().unwrap();
        assert!(Rc::ptr_eq(&lease.pool, &pools[1]));
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        assert!(!is_silent || begun.elapsed() >= NEXT_ADDRESS, "it has its time to answer");
        assert!(!pools[0].record().is_healthy(), "and is not tried first the next time");
    }
}
