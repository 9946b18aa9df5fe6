//! `redis`: work in progress.
#![allow(dead_code)]

mod rdb;
