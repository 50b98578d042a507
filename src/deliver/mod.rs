//! Layer 5: the delivering side. `core` decides, `dispatcher` carries out, one `worker` per
//! connection sends, `settle` turns replies into outcomes.

pub mod addresses;
pub mod connection;
pub mod core;
pub mod dispatcher;
pub mod line;
pub mod load;
pub mod permit;
pub mod quotas;
pub mod settle;
pub mod shared;
pub mod worker;
