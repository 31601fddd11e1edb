//! Whom sequences belong to.

/// A tenant: an index into [`SchedConfig::tenant_weights`](crate::SchedConfig::tenant_weights).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(pub u32);

impl TenantId {
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}
