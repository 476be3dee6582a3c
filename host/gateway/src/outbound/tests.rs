//! Outbound calls against scripted servers on this machine.

use std::cell::Cell;
use std::rc::Rc;

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::services::Origins;

/// A server that answers each request of each connection with the next text; it counts its connections.
async fn server(answers: &'static [&'static str]) -> (String, Rc<Cell<usize>>, Rc<std::cell::RefCell<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let connections = Rc::new(Cell::new(0));
    let requests = Rc::new(std::cell::RefCell::new(Vec::new()));
    let (counter, seen) = (connections.clone(), requests.clone());
    let next = Rc::new(Cell::new(0));
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counter.set(counter.get() + 1);
            tokio::task::spawn_local(serve(stream, answers, next.clone(), seen.clone()));
        }
    });
    (origin, connections, requests)
}

async fn serve(
    mut stream: TcpStream,
    answers: &'static [&'static str],
    next: Rc<Cell<usize>>,
    seen: Rc<std::cell::RefCell<Vec<String>>>,
) {
    let mut text = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let Ok(read @ 1..) = stream.read(&mut buffer).await else { return };
        text.extend_from_slice(&buffer[..read]);
        let head = String::from_utf8_lossy(&text).into_owned();
        let Some(end) = head.find("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")).map_or(0, |l| l.parse().unwrap());
        if text.len() < end + 4 + length {
            continue;
        }
        text.clear();
        seen.borrow_mut().push(head);
        let Some(answer) = answers.get(next.replace(next.get() + 1)) else { return };
        match *answer {
            "close" => return,
            "hang" => std::future::pending().await,
            answer => stream.write_all(answer.as_bytes()).await.unwrap(),
        }
    }
}

fn call(url: String) -> Call {
    let cdn_loop = HeaderValue::from_static("sluice");
    Call { method: "GET".to_owned(), url, headers: Vec::new(), body: Bytes::new(), cdn_loop, made_for: None }
}

/// The grant of these origins.
fn granting<'a>(origins: impl IntoIterator<Item = &'a str>) -> Grants {
    Grants { http: Origins::parse(origins).unwrap(), ..Grants::default() }
}

fn network(tls: Tls) -> Network {
    Network { tls, resolver: Resolver::new(&[], None), budget: MemoryBudget::new(1 << 20) }
}

async fn send_one(call: Call, origin: &str) -> Result<Incoming, ServiceError> {
    let grants = granting([origin]);
    let mut answers = send(vec![call], Duration::from_secs(20), &grants, &network(Tls::system()), 100).await.unwrap();
    answers.remove(0)
}

#[test]
fn the_future_can_move_between_threads() {
    fn is_send<T: Send>(_: T) {}
    let (grants, network) = (Grants::default(), network(Tls::system()));
    is_send(send(Vec::new(), Duration::ZERO, &grants, &network, 0));
}

#[tokio::test(flavor = "local")]
async fn a_request_arrives_as_it_was_given_and_the_connection_is_kept() {
    const OK: &str = "HTTP/1.1 201 Created\r\ncontent-length: 2\r\nx-a: 1\r\nx-a: 2\r\nkeep-alive: timeout=9\r\n\r\nhi";
    let (origin, connections, requests) = server(&[OK, OK, OK]).await;
    for _ in 0..3 {
        let call = Call {
            method: "POST".to_owned(),
            url: format!("{origin}/p/a%20b?q=1#fragment"),
            headers: vec![("X-Test".to_owned(), "v".to_owned())],
            body: Bytes::from_static(b"body"),
            cdn_loop: HeaderValue::from_static("sluice"),
            made_for: None,
        };
        let answer = send_one(call, &origin).await.unwrap();
        assert_eq!((answer.status.as_u16(), &answer.body[..]), (201, &b"hi"[..]));
        assert_eq!(answer.headers.get_all("x-a").iter().count(), 2);
        assert!(!answer.headers.contains_key("keep-alive"));
    }
    assert_eq!(connections.get(), 1);
    let request = requests.borrow()[0].clone();
    assert!(request.starts_with("POST /p/a%20b?q=1 HTTP/1.1\r\n"), "{request}");
    let host = origin.strip_prefix("http://").unwrap();
    assert!(request.contains(&format!("host: {host}\r\n")), "{request}");
    assert!(request.contains("x-test: v\r\n") && request.ends_with("\r\n\r\nbody"), "{request}");
}

#[tokio::test(flavor = "local")]
async fn redirects_are_handed_over() {
    let (origin, _, requests) =
        server(&["HTTP/1.1 302 Found\r\nlocation: http://evil.example/\r\ncontent-length: 0\r\n\r\n"]).await;
    let answer = send_one(call(origin.clone()), &origin).await.unwrap();
    assert_eq!(answer.status, StatusCode::FOUND);
    assert_eq!(requests.borrow().len(), 1);
}

#[tokio::test(flavor = "local")]
async fn what_is_not_granted_or_malformed_is_not_sent() {
    let (origin, connections, _) = server(&[]).await;
    let with =
        |name: &str, value: &str| Call { headers: vec![(name.to_owned(), value.to_owned())], ..call(origin.clone()) };
    let cases = [
        call("http://127.0.0.1:1/".to_owned()),
        call("relative".to_owned()),
        call(origin.replace("http://", "http://u@")),
        with("host", "other"),
        with("Content-Length", "5"),
        with("transfer-encoding", "chunked"),
        with("connection", "close"),
        with("bad name", "x"),
        with("x", "a\r\nb: c"),
        Call { method: "CONNECT".to_owned(), ..call(origin.clone()) },
        Call { method: "G T".to_owned(), ..call(origin.clone()) },
    ];
    let grants = granting([&*origin]);
    let answers = send(cases.to_vec(), Duration::from_secs(5), &grants, &network(Tls::system()), 100).await.unwrap();
    assert!(matches!(answers[0], Err(ServiceError::NotGranted(_))));
    for (answer, case) in answers.iter().zip(&cases).skip(1) {
        assert!(matches!(answer, Err(ServiceError::Invalid(_))), "{case:?}: {answer:?}");
    }
    assert_eq!(connections.get(), 0);
    let many = vec![call(origin); 17];
    let refused = send(many, Duration::from_secs(5), &grants, &network(Tls::system()), 100).await;
    assert!(matches!(refused, Err(ServiceError::TooLarge(16))));
}

#[tokio::test(flavor = "local")]
async fn bodies_are_bounded_with_and_without_a_length() {
    let (origin, _, _) = server(&[
        "HTTP/1.1 200 OK\r\ncontent-length: 101\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n65\r\n0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789X\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort",
    ])
    .await;
    assert_eq!(send_one(call(origin.clone()), &origin).await.unwrap_err(), ServiceError::TooLarge(100));
    assert_eq!(send_one(call(origin.clone()), &origin).await.unwrap_err(), ServiceError::TooLarge(100));
    assert_eq!(&send_one(call(origin.clone()), &origin).await.unwrap().body[..], b"abcde");
}

#[tokio::test(flavor = "local")]
async fn calls_run_at_the_same_time_and_each_has_its_own_end() {
    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let (quick, _, _) = server(&[OK]).await;
    let (slow, connections, _) = server(&["hang", "hang"]).await;
    let gone = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let grants = granting([&*quick, &*slow, &*gone]);
    let calls = vec![call(slow.clone()), call(quick), call(gone), call(slow)];
    let answers = send(calls, Duration::from_millis(400), &grants, &network(Tls::system()), 100).await.unwrap();
    assert!(matches!(answers[0], Err(ServiceError::Timeout)));
    assert!(answers[1].is_ok(), "{:?}", answers[1]);
    assert!(matches!(answers[2], Err(ServiceError::Unavailable(_))));
    assert!(matches!(answers[3], Err(ServiceError::Timeout)));
    assert_eq!(connections.get(), 2);
}

#[tokio::test(flavor = "local")]
async fn a_kept_connection_that_died_is_replaced_where_that_is_safe() {
    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let (origin, connections, _) = server(&[OK, "close", OK, "close"]).await;
    assert!(send_one(call(origin.clone()), &origin).await.is_ok());
    assert!(send_one(call(origin.clone()), &origin).await.is_ok());
    assert_eq!(connections.get(), 2);
    let post = Call { method: "POST".to_owned(), ..call(origin.clone()) };
    assert!(matches!(send_one(post, &origin).await, Err(ServiceError::Unavailable(_))));
}

#[tokio::test(flavor = "local")]
async fn https_is_verified_and_speaks_http2() {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::Pkcs8(certified.signing_key.serialize_der().into());
    let certificate = certified.cert.der().clone();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let service = hyper::service::service_fn(|request: Request<hyper::body::Incoming>| async move {
                let text = format!("{:?} {}", request.version(), request.uri());
                Ok::<_, std::convert::Infallible>(Response::new(Body::full(text)))
            });
            let executor = crate::upstream::connect::LocalExecutor;
            tokio::task::spawn_local(
                hyper::server::conn::http2::Builder::new(executor)
                    .serve_connection(hyper_util::rt::TokioIo::new(stream), service),
            );
        }
    });
    let origin = format!("https://localhost:{port}");
    let grants = granting([&*origin]);
    let get = || call(format!("{origin}/x?y"));
    let stranger = send(vec![get()], Duration::from_secs(20), &grants, &network(Tls::system()), 100).await.unwrap();
    assert!(matches!(stranger[0], Err(ServiceError::Unavailable(_))), "{stranger:?}");
    let network = network(Tls::with_authorities(vec![certificate]));
    for _ in 0..2 {
        let answers = send(vec![get()], Duration::from_secs(20), &grants, &network, 100).await.unwrap();
        let body = String::from_utf8_lossy(&answers[0].as_ref().unwrap().body).into_owned();
        assert_eq!(body, format!("HTTP/2.0 https://localhost:{port}/x?y"));
    }
}
