//! A chunk of a RabbitMQ stream, and the AMQP 1.0 messages in it; or one such message.

#![no_main]

use bytes::Bytes;
use eventloader::mapping::message::{MessageMapping, Payload};
use eventloader::sources::rabbitmq_stream::{messages_of_chunk, read_message};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((how, data)) = data.split_first() else { return };
    let data = Bytes::copy_from_slice(data);
    let messages = match how & 1 {
        0 => vec![read_message(data)],
        _ => messages_of_chunk(data),
    };
    let mapping =
        MessageMapping { payload: Payload::At(Default::default()), ..MessageMapping::default() };
    for message in messages {
        if let Err(reason) = mapping.decode(&message) {
            assert!(!reason.is_empty() && !reason.chars().any(char::is_control), "{reason:?}");
        }
    }
});
