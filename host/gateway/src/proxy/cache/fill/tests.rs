//! The content of a fetch as its readers get it, and the memory that it takes meanwhile.

use super::*;

async fn all(reader: Reader) -> Result<Vec<u8>, BodyError> {
    Body::stream(reader).collect().await.map(|body| body.to_bytes().to_vec())
}

#[tokio::test(flavor = "local")]
async fn a_reader_that_joins_gets_what_is_there_and_the_rest_as_it_comes() {
    let filling = Filling::begin(None);
    let mut first = filling.fill().reader().unwrap();
    filling.push(Bytes::from_static(b"ab"));
    assert_eq!(first.frame().await.unwrap().unwrap().into_data().unwrap(), "ab");
    let second = filling.fill().reader().unwrap();
    let both = async { tokio::join!(all(first), all(second)) };
    let write = async {
        tokio::task::yield_now().await;
        filling.push(Bytes::from_static(b"cd"));
        filling.end(None, None);
    };
    let ((first, second), ()) = tokio::join!(both, write);
    assert_eq!((first.unwrap(), second.unwrap()), (b"cd".to_vec(), b"abcd".to_vec()));
}

#[tokio::test(flavor = "local")]
async fn what_breaks_off_breaks_its_readers() {
    let filling = Filling::begin(Some(4));
    let reader = filling.fill().reader().unwrap();
    assert_eq!(reader.size_hint().exact(), Some(4));
    filling.push(Bytes::from_static(b"ab"));
    filling.break_off(Broken::Malformed("a chunk".into()));
    assert!(matches!(all(reader).await, Err(BodyError::Protocol(_))));

    let filling = Filling::begin(None);
    let reader = filling.fill().reader().unwrap();
    drop(filling);
    assert!(matches!(all(reader).await, Err(BodyError::UpstreamAborted(_))));
}

#[tokio::test(flavor = "local")]
async fn what_is_not_stored_is_held_back_by_its_slowest_reader() {
    let filling = Filling::begin(None);
    let (fill, part) = (Arc::clone(filling.fill()), Bytes::from(vec![7; WINDOW / 2]));
    let (mut quick, slow) = (fill.reader().unwrap(), fill.reader().unwrap());
    filling.slide(None);
    assert!(fill.reader().is_none(), "nobody joins");
    filling.push(part.clone());
    filling.push(part);
    for _ in 0..2 {
        quick.frame().await.unwrap().unwrap();
    }
    let waits = std::future::poll_fn(|cx| Poll::Ready(std::pin::pin!(filling.room()).poll(cx).is_pending()));
    assert!(waits.await);
    assert_eq!(fill.lock().parts.len(), 2);
    drop(slow);
    assert_eq!(fill.lock().parts.len(), 0);
    assert_eq!(filling.room().await, Room::Here);
    drop(quick);
    assert_eq!(filling.room().await, Room::Nobody);
}

#[tokio::test(flavor = "local")]
async fn who_reads_is_not_left_behind_and_all_who_are_stuck_are() {
    let filling = Filling::begin(None);
    let reader = || filling.fill().reader().unwrap();
    let (mut quick, mut slow, stuck) = (reader(), reader(), [reader(), reader()]);
    filling.slide(None);
    for _ in 0..4 {
        filling.push(Bytes::from(vec![7; WINDOW]));
        quick.frame().await.unwrap().unwrap();
    }
    let mut cx = Context::from_waker(Waker::noop());
    let mut room = Box::pin(filling.room());
    assert!(room.as_mut().poll(&mut cx).is_pending());
    slow.frame().await.unwrap().unwrap();
    assert!(room.as_mut().poll(&mut cx).is_pending());
    filling.leave_stuck();
    for stuck in stuck {
        assert!(matches!(all(stuck).await, Err(BodyError::UpstreamAborted(_))));
    }
    slow.frame().await.unwrap().expect("it has read meanwhile");
    // The writer waits anew.
    let mut room = Box::pin(filling.room());
    assert!(room.as_mut().poll(&mut cx).is_pending());
    filling.leave_stuck();
    assert!(matches!(all(slow).await, Err(BodyError::UpstreamAborted(_))), "it has not since");
    assert!(room.as_mut().poll(&mut cx).is_ready());
}

fn builder(most: u64) -> BodyBuilder {
    BodyBuilder::new(None, most).unwrap()
}

#[tokio::test(flavor = "local")]
async fn slow_readers_of_what_is_stored_hold_no_memory_of_the_account() {
    let budget = MemoryBudget::new(1 << 20);
    let content: Vec<u8> = (0..100_000_u32).map(|at| at as u8).collect();
    let filling = Filling::begin(Some(content.len() as u64));
    let (mut begun, late) = (filling.fill().reader().unwrap(), filling.fill().reader().unwrap());
    let source = Body::stream(Parts(content.chunks(10_000).map(Bytes::copy_from_slice).collect(), None));
    let mut stored = None;
    let keep = |body, _: &mut Option<Reservation>| {
        stored = Some(body);
        Ok(())
    };
    let fill = Arc::clone(filling.fill());
    let filled = fill_up(source, filling, builder(u64::MAX), &budget, keep, || panic!("it is not too large"));
    let (filled, first) = tokio::join!(filled, begun.frame());
    let mut got = first.unwrap().unwrap().into_data().unwrap().to_vec();
    assert!(filled.is_ok() && stored.is_some());
    assert_eq!((budget.used(), fill.lock().parts.len()), (0, 0));
    got.extend(all(begun).await.unwrap());
    assert!(got == content && all(late).await.unwrap() == content);
}

#[tokio::test(flavor = "local")]
async fn what_turns_out_too_large_is_charged_for_no_more_than_is_held() {
    let budget = MemoryBudget::new(8 << 20);
    let filling = Filling::begin(None);
    let (quick, slow) = (filling.fill().reader().unwrap(), filling.fill().reader().unwrap());
    let source = Body::stream(Parts(vec![Bytes::from(vec![7; WINDOW]); 4].into(), None));
    let told = std::cell::Cell::new(0);
    let keep = |_, _: &mut Option<Reservation>| panic!("it is not stored");
    let filled = fill_up(source, filling, builder(2 * WINDOW as u64), &budget, keep, || told.set(told.get() + 1));
    let read = async {
        let (quick, slow) = tokio::join!(all(quick), all(slow));
        assert_eq!((quick.unwrap().len(), slow.unwrap().len()), (4 * WINDOW, 4 * WINDOW));
    };
    let (filled, ()) = tokio::join!(filled, read);
    assert!(matches!(filled, Err(Unstored::TooLarge)));
    assert_eq!((budget.used(), told.get()), (0, 2));

    // A reader that reads nothing pins what is there, once.
    let filling = Filling::begin(None);
    let stuck = filling.fill().reader().unwrap();
    let mut charge = budget.reserve_for(Share::Fetches, 0).unwrap();
    let mut stored = builder(WINDOW as u64);
    for _ in 0..2 {
        let part = Bytes::from(vec![7; WINDOW]);
        let _ = add(&mut stored, &mut charge, &part);
        filling.push(part);
    }
    assert_eq!(budget.used(), 4 * WINDOW);
    filling.slide(Some(charge));
    assert_eq!(budget.used(), 2 * WINDOW);
    assert!(budget.reserve_for(Share::Fetches, 1 << 20).is_ok(), "it is in nobody's share");
    drop(stuck);
    assert_eq!(budget.used(), 0);
}

#[tokio::test(flavor = "local")]
async fn nobody_joins_what_stands_still() {
    let filling = Filling::begin(None);
    let fill = filling.fill();
    assert!(fill.reader_within(Duration::from_secs(60)).is_some());
    assert!(fill.reader_within(Duration::ZERO).is_none());
    let fill = Arc::clone(fill);
    filling.end(None, None);
    assert!(fill.reader_within(Duration::ZERO).is_some(), "all of it is here");
}

#[tokio::test(flavor = "local")]
async fn trailers_follow_an_announced_length() {
    let trailers = || HeaderMap::from_iter([(http::header::VARY, http::HeaderValue::from_static("x"))]);
    for sent in [Some(trailers()), None] {
        let filling = Filling::begin(Some(2));
        let mut reader = filling.fill().reader().unwrap();
        filling.push(Bytes::from_static(b"ab"));
        assert_eq!(reader.frame().await.unwrap().unwrap().into_data().unwrap(), "ab");
        assert!(!reader.is_end_stream());
        filling.end(sent.clone(), None);
        assert_eq!(reader.is_end_stream(), sent.is_none());
        let last = reader.frame().await.map(|frame| frame.unwrap().into_trailers().unwrap());
        assert_eq!(last, sent);
    }
}

/// Sends these parts, one for each poll, and then trailers.
struct Parts(VecDeque<Bytes>, Option<HeaderMap>);

impl HttpBody for Parts {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let data = self.0.pop_front().map(|data| Ok(Frame::data(data)));
        Poll::Ready(data.or_else(|| self.1.take().map(|trailers| Ok(Frame::trailers(trailers)))))
    }
}
