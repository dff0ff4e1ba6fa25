-- +goose Up

alter table partners
    add column items_per_second integer not null default 0 check (items_per_second >= 0),
    add column burst integer not null default 0 check (burst >= 0),
    add column max_requests integer not null default 0 check (max_requests >= 0),
    add column max_bytes bigint not null default 0 check (max_bytes >= 0);
comment on column partners.items_per_second is '0: no limit, as in the other limits';
comment on column partners.burst is 'items that may come at once when none came for a while';
comment on column partners.max_requests is 'requests in flight at once';
comment on column partners.max_bytes is 'bytes of requests in flight at once';

-- +goose Down

alter table partners drop column items_per_second, drop column burst, drop column max_requests, drop column max_bytes;
