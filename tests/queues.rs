//! Brokers that deliver messages and want an acknowledgement.

mod amqp;
