-- Run once, when docker-compose.yml's Postgres is new. An image may default to an
-- encoding that can't hold every partner_client_id.
create database intake encoding 'UTF8' locale 'C' template template0;
