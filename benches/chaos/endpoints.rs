//! The thread of the four endpoints, and the way to change how they behave.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::thread;

use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;

use crate::origins::{Address, Endpoint, Mode, Received};

/// How many there are.
pub(crate) const COUNT: usize = 4;

/// Which endpoint behaves how from now on, and where to say that it does.
type Order = (usize, Mode, oneshot::Sender<()>);

/// The endpoints as the other thread sees them.
pub(crate) struct Endpoints {
    pub(crate) addresses: Vec<Address>,
    pub(crate) received: Received,
    orders: mpsc::UnboundedSender<Order>,
}

impl Endpoints {
    /// Starts them: 127.0.1.1 to 127.0.1.4, with ports that they share.
    pub(crate) fn start() -> Endpoints {
        let received: Received = Arc::new(Mutex::default());
        let (orders, mut queue) = mpsc::unbounded_channel::<Order>();
        let (started, addresses) = std::sync::mpsc::channel();
        let notes = Arc::clone(&received);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            LocalSet::new().block_on(&runtime, async move {
                let first = Endpoint::start(ip(0), (0, 0), &notes);
                let ports = (first.address.http.port(), first.address.grpc.port());
                let mut all = vec![first];
                all.extend((1..COUNT).map(|number| Endpoint::start(ip(number), ports, &notes)));
                started.send(all.iter().map(|endpoint| endpoint.address).collect()).expect("who waits");
                while let Some((number, mode, done)) = queue.recv().await {
                    all[number].set(mode).await;
                    // Nobody waits where the run has ended.
                    let _ = done.send(());
                }
            });
        });
        Endpoints { addresses: addresses.recv().expect("the endpoints"), received, orders }
    }

    /// Has one of them behave so, and waits until it does.
    pub(crate) async fn set(&self, number: usize, mode: Mode) {
        let (done, is_done) = oneshot::channel();
        self.orders.send((number, mode, done)).expect("the thread of the endpoints");
        is_done.await.expect("the thread of the endpoints");
    }
}

/// The address of an endpoint.
pub(crate) fn ip(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, number as u8 + 1)
}
