//! How many messages the broker may send ahead. AMQP counts messages, and memory counts bytes.

/// Bodies that may be here without being acknowledged, as far as the sizes of those before tell: two batches.
const HELD_BYTES_MAX: usize = 64 << 20;
/// As long as nothing is known of the sizes.
const FIRST_COUNT: u16 = 10;
/// A window is changed when it should be this many times as large or as small.
const CHANGE_FACTOR: u16 = 2;
/// How much of the average one message makes up: one in so many.
const AVERAGE_OVER: usize = 8;

/// The number of messages that are asked for, by their sizes.
#[derive(Debug)]
pub(super) struct Window {
    /// `prefetch`: never more than this.
    count_max: u16,
    /// What the broker was told.
    count: u16,
    /// Mean size of the last messages, in bytes.
    average: usize,
    /// Messages that have come.
    seen: usize,
    /// Messages that have to come one by one first.
    one_by_one: usize,
}

impl Window {
    /// The first window of a session. `is_careful`: messages of the session before could not be read; they come one by
    /// one until all that it may have been holding have come, so that the others leave the queue, and the one at fault
    /// comes to its head.
    pub(super) fn new(count_max: u16, is_careful: bool) -> Self {
        let one_by_one = if is_careful { usize::from(count_max) } else { 0 };
        let count = if is_careful { 1 } else { FIRST_COUNT.min(count_max) };
        Self { count_max, count, average: 0, seen: 0, one_by_one }
    }

    /// `prefetch`: the window where messages are small.
    pub(super) fn count_max(&self) -> u16 {
        self.count_max
    }

    /// What the broker was told.
    pub(super) fn count(&self) -> u16 {
        self.count
    }

    /// A message of this size has come.
    pub(super) fn add(&mut self, byte_count: usize) {
        self.average = if self.seen == 0 {
            byte_count
        } else {
            self.average - self.average / AVERAGE_OVER + byte_count / AVERAGE_OVER
        };
        self.seen += 1;
        self.one_by_one = self.one_by_one.saturating_sub(1);
    }

    /// The window as it should be now, if that is not how it is. It counts as told from then on.
    pub(super) fn change(&mut self) -> Option<u16> {
        // A few say little about those that follow; large ones say enough.
        let fits = HELD_BYTES_MAX / self.average.max(1);
        let is_early = self.seen < usize::from(FIRST_COUNT) && fits >= usize::from(self.count);
        if self.one_by_one > 0 || is_early {
            return None;
        }
        let wanted = u16::try_from(fits).unwrap_or(u16::MAX).clamp(1, self.count_max);
        let is_smaller = wanted <= self.count / CHANGE_FACTOR;
        let is_larger = wanted > self.count
            && (wanted == self.count_max || wanted / CHANGE_FACTOR >= self.count);
        (is_smaller || is_larger).then(|| {
            self.count = wanted;
            wanted
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn after(window: &mut Window, count: usize, byte_count: usize) -> Option<u16> {
        (0..count).fold(None, |changed, _| {
            window.add(byte_count);
            window.change().or(changed)
        })
    }

    #[test]
    fn small_messages_may_come_in_numbers() {
        let mut window = Window::new(1000, false);
        assert_eq!((window.count(), after(&mut window, 9, 300)), (10, None), "too early to say");
        assert_eq!(after(&mut window, 1, 300), Some(1000));
        assert_eq!(after(&mut window, 100_000, 300), None);
        assert_eq!(Window::new(3, false).count(), 3);
        assert_eq!(after(&mut Window::new(3, false), 100, 300), None, "never above `prefetch`");
    }

    #[test]
    fn large_ones_come_in_a_few() {
        let mut window = Window::new(1000, false);
        assert_eq!(after(&mut window, 10, MIB), Some(64));
        assert_eq!(after(&mut window, 100, 16 * MIB), Some(5), "near enough to 4");
        assert_eq!(after(&mut window, 100, 200 * MIB), Some(1));
        assert_eq!(after(&mut window, 200, 100), Some(1000));
        let mut window = Window::new(1000, false);
        assert_eq!(after(&mut window, 1, 16 * MIB), Some(4), "one is enough to know");
    }

    #[test]
    fn after_one_that_cannot_be_read_they_come_one_by_one() {
        let mut window = Window::new(100, true);
        assert_eq!((window.count(), after(&mut window, 99, 300)), (1, None));
        assert_eq!(after(&mut window, 1, 300), Some(100));
    }
}
