//! The places for requests in flight, in two lanes, so that sources that hang do not keep those waiting that answer.

/// The two lanes for requests in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// For sources that answer soon, and for those that were never asked.
    Prompt,
    /// For requests that take long, and for sources whose last request did, or failed.
    Overtime,
}

/// The places for requests in flight: one half in each lane. A request that takes long leaves the prompt lane as long as
/// there is room in the other, so sources that hang do not keep those waiting that answer.
#[derive(Debug)]
pub(super) struct Places {
    prompt_free: usize,
    overtime_free: usize,
    /// With a single place there is no second lane.
    has_overtime: bool,
}

impl Places {
    pub(super) fn new(concurrency: usize) -> Self {
        let overtime_free = concurrency / 2;
        Self {
            prompt_free: concurrency - overtime_free,
            overtime_free,
            has_overtime: overtime_free > 0,
        }
    }

    pub(super) fn lane_of(&self, slow: bool) -> Lane {
        if slow && self.has_overtime { Lane::Overtime } else { Lane::Prompt }
    }

    pub(super) fn free(&mut self, lane: Lane) -> &mut usize {
        match lane {
            Lane::Prompt => &mut self.prompt_free,
            Lane::Overtime => &mut self.overtime_free,
        }
    }

    /// Takes a place that [`Self::free`] said is there.
    pub(super) fn take(&mut self, lane: Lane) {
        *self.free(lane) -= 1;
    }

    /// Whether there is a second lane.
    pub(super) fn has_overtime(&self) -> bool {
        self.has_overtime
    }

    /// Moves a request from the prompt lane to a place that [`Self::free`] said is in the other.
    pub(super) fn move_to_overtime(&mut self) {
        self.overtime_free -= 1;
        self.prompt_free += 1;
    }
}
