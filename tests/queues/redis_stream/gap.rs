//! What was trimmed or deleted before it was read.

use std::time::Duration;

use eventloader::source::queue::QueueSession;

use super::{Stream, acknowledge_all, deliver, gaps, numbers, version};

/// A group that has read the entries 1 to 4 of a stream, and nobody is there.
async fn read_to_four(stream: &Stream) {
    stream.add_all(1..=4).await;
    let session = stream.connect("earlier").await;
    assert_eq!(acknowledge_all(&session, deliver(&session).await).await, [1, 2, 3, 4]);
    session.close().await;
}

/// What the next session is delivered first.
async fn found(stream: &Stream) -> (Vec<u64>, Vec<(i64, i64)>) {
    let session = stream.connect("later").await;
    let delivery = deliver(&session).await;
    let found = (numbers(&delivery), gaps(&delivery));
    session.acknowledge(delivery.receipt).await.unwrap();
    session.close().await;
    found
}

#[tokio::test]
async fn entries_trimmed_by_their_number_are_one_gap_once() {
    let stream = Stream::new().await;
    read_to_four(&stream).await;
    stream.add_all(5..=10).await;
    stream.command("XTRIM {} MAXLEN 2").await;
    assert_eq!(found(&stream).await, (vec![9, 10], vec![(version(4) + 1, version(9) - 1)]));
    // What was read may go, also right up to what was not.
    stream.add_all(11..=12).await;
    stream.command("XTRIM {} MINID 11").await;
    assert_eq!(found(&stream).await, (vec![11, 12], vec![]));
    stream.command("XTRIM {} MAXLEN 0").await;
    stream.add(13).await;
    assert_eq!(found(&stream).await, (vec![13], vec![]));
}

#[tokio::test]
async fn entries_trimmed_by_their_id_are_a_gap() {
    let stream = Stream::new().await;
    read_to_four(&stream).await;
    stream.add_all(5..=10).await;
    stream.command("XTRIM {} MINID 8").await;
    assert_eq!(found(&stream).await, (vec![8, 9, 10], vec![(version(4) + 1, version(8) - 1)]));
    // A second loss is a second gap.
    stream.add_all(11..=14).await;
    stream.command("XTRIM {} MINID 13").await;
    assert_eq!(found(&stream).await, (vec![13, 14], vec![(version(10) + 1, version(13) - 1)]));
}

#[tokio::test]
async fn entries_trimmed_by_the_producer_while_a_session_is_there_are_a_gap() {
    let stream = Stream::new().await;
    let session = stream.connect("one").await;
    stream.add_all(1..=2).await;
    assert_eq!(acknowledge_all(&session, deliver(&session).await).await, [1, 2]);
    for n in 3..=9 {
        stream.command(&format!("XADD {{}} MAXLEN 3 {n}-0 message {{\"n\":{n}}}")).await;
    }
    let delivery = deliver(&session).await;
    assert_eq!(gaps(&delivery), [(version(2) + 1, version(7) - 1)]);
    assert!(delivery.gaps[0].reason.contains("4 entries"), "{:?}", delivery.gaps);
    assert_eq!(acknowledge_all(&session, delivery).await, [7, 8, 9]);
    stream.add(10).await;
    let delivery = deliver(&session).await;
    assert_eq!((numbers(&delivery), gaps(&delivery)), (vec![10], vec![]));
}

#[tokio::test]
async fn a_stream_that_was_emptied_is_a_gap_without_entries() {
    let stream = Stream::new().await;
    read_to_four(&stream).await;
    stream.add_all(5..=7).await;
    stream.command("XTRIM {} MAXLEN 0").await;
    assert_eq!(found(&stream).await, (vec![], vec![(version(4) + 1, version(7))]));
    stream.add(8).await;
    assert_eq!(found(&stream).await, (vec![8], vec![]));
}

#[tokio::test]
async fn an_entry_deleted_before_it_was_read_is_a_gap() {
    let stream = Stream::new().await;
    read_to_four(&stream).await;
    stream.add_all(5..=8).await;
    stream.command("XDEL {} 6-0").await;
    assert_eq!(found(&stream).await, (vec![5, 7, 8], vec![(version(4) + 1, version(6))]));
    stream.add(9).await;
    assert_eq!(found(&stream).await, (vec![9], vec![]));
}

#[tokio::test]
async fn entries_deleted_after_they_were_read_are_none() {
    let stream = Stream::new().await;
    read_to_four(&stream).await;
    stream.add_all(5..=6).await;
    for deleted in ["2-0", "4-0"] {
        stream.command(&format!("XDEL {{}} {deleted}")).await;
    }
    assert_eq!(found(&stream).await, (vec![5, 6], vec![]));
    stream.command("XDEL {} 1-0 3-0 5-0 6-0").await;
    stream.add(7).await;
    assert_eq!(found(&stream).await, (vec![7], vec![]));
}

#[tokio::test]
async fn what_was_gone_before_the_group_was_made_is_none() {
    let stream = Stream::new().await;
    stream.add_all(1..=9).await;
    stream.command("XTRIM {} MAXLEN 6").await;
    stream.command("XDEL {} 6-0").await;
    assert_eq!(found(&stream).await, (vec![4, 5, 7, 8, 9], vec![]));
    // One that somebody else has made.
    let mut stream = Stream::new().await;
    stream.add_all(1..=9).await;
    stream.command("XTRIM {} MAXLEN 6").await;
    stream.command("XDEL {} 6-0").await;
    stream.command("XGROUP CREATE {} @ 0").await;
    assert_eq!(found(&stream).await, (vec![4, 5, 7, 8, 9], vec![]));
    // What goes after it was made was to be read.
    stream.options.group = "another".to_owned();
    stream.connect("one").await.close().await;
    stream.command("XTRIM {} MINID 8").await;
    let (numbers, gaps) = found(&stream).await;
    assert_eq!(numbers, [8, 9]);
    assert_eq!(gaps, [(1, version(8) - 1)]);
}

#[tokio::test]
async fn a_gap_that_was_told_and_not_stored_is_told_again() {
    for loss in ["XTRIM {} MAXLEN 2", "XDEL {} 6-0"] {
        let stream = Stream::new().await;
        read_to_four(&stream).await;
        stream.add_all(5..=10).await;
        stream.command(loss).await;
        let killed = stream.connect("killed").await;
        let told = deliver(&killed).await;
        assert_eq!(told.gaps.len(), 1, "{loss}");
        let wanted = (numbers(&told), gaps(&told));
        drop(killed);
        assert_eq!(found(&stream).await, wanted, "{loss}");
        stream.add(11).await;
        assert_eq!(found(&stream).await, (vec![11], vec![]), "{loss}");
        assert_eq!(stream.pending().await, 0, "{loss}");
    }
}

#[tokio::test]
async fn a_gap_that_was_given_back_is_told_again() {
    let stream = Stream::new().await;
    read_to_four(&stream).await;
    stream.add_all(5..=10).await;
    stream.command("XTRIM {} MAXLEN 2").await;
    let session = stream.connect("one").await;
    let told = deliver(&session).await;
    let wanted = gaps(&told);
    assert_eq!(wanted, [(version(4) + 1, version(9) - 1)]);
    session.reject(told.receipt).await.unwrap();
    let (mut seen, mut lost) = (Vec::new(), Vec::new());
    while seen.len() < 2 || lost.is_empty() {
        let again = deliver(&session).await;
        lost.extend(gaps(&again));
        seen.extend(acknowledge_all(&session, again).await);
    }
    assert_eq!((seen, lost), (vec![9, 10], wanted));
}

#[tokio::test]
async fn while_a_gap_is_being_stored_nothing_is_lost_on_the_way() {
    let stream = Stream::new().await;
    read_to_four(&stream).await;
    stream.add_all(5..=10).await;
    stream.command("XTRIM {} MAXLEN 2").await;
    let session = stream.connect("one").await;
    let told = deliver(&session).await;
    // More is lost, and another consumer meets the same.
    stream.add_all(11..=14).await;
    stream.command("XTRIM {} MAXLEN 3").await;
    let other = stream.connect("two").await;
    let met = deliver(&other).await;
    assert_eq!(numbers(&met), [12, 13, 14]);
    assert_eq!(gaps(&met), [(version(4) + 1, version(12) - 1)]);
    assert_eq!(acknowledge_all(&session, told).await, [9, 10]);
    assert_eq!(acknowledge_all(&other, met).await, [12, 13, 14]);
    session.close().await;
    other.close().await;
    stream.add(15).await;
    assert_eq!(found(&stream).await, (vec![15], vec![]));
    assert_eq!(stream.pending().await, 0);
}

#[tokio::test]
async fn entries_that_are_trimmed_in_hand_are_told_until_that_is_stored() {
    let mut stream = Stream::new().await;
    stream.options.retry_after = Duration::from_secs(1);
    stream.add_all(1..=3).await;
    let leaving = stream.connect("leaving").await;
    assert_eq!(numbers(&deliver(&leaving).await), [1, 2, 3]);
    stream.command("XTRIM {} MAXLEN 1").await;
    // What is left may be taken over at once; of the others somebody has to tell.
    leaving.close().await;
    assert_eq!(stream.pending().await, 3);
    let lost = [(version(1), version(1)), (version(2), version(2))];
    let killed = stream.connect("killed").await;
    let mut told = Vec::new();
    while told.len() < lost.len() {
        told.extend(gaps(&deliver(&killed).await));
    }
    assert_eq!(told, lost);
    drop(killed);
    let heir = stream.connect("heir").await;
    let (mut told, mut seen) = (Vec::new(), Vec::new());
    while told.len() < lost.len() || seen.is_empty() {
        let delivery = deliver(&heir).await;
        told.extend(gaps(&delivery));
        seen.extend(acknowledge_all(&heir, delivery).await);
    }
    assert_eq!((told.as_slice(), seen.as_slice()), (&lost[..], &[3][..]));
    assert_eq!(stream.pending().await, 0);
}
